"""Write a model as ONNX, to run it without torch, and say how far its answers are from the original's.

    python -m mer.scripts.export_onnx OUT [--model DIR_OR_ID] [--int8] [--check AUDIO ...]

Into OUT go `encoder.onnx` (segments (N, T) of one length -> embeddings (N, D)), `heads.onnx` (embeddings, chords and
mode of B clips -> `logits` (B, tags) and `valence_arousal` (B, 2)), and the configuration of model and extractor. All
sizes but D are free. [`ONNXModel`] runs them. `--int8` keeps the weights of the encoder's linear layers as integers of
8 bits (onnxruntime's dynamic quantisation). Needs `pip install mer[onnx]`; running needs onnxruntime alone.
"""

import argparse
import importlib.util
import logging
import sys
import warnings
from pathlib import Path

import numpy as np

from ..harmony_mer import NO_CHORDS, NO_TONALITY
from .predict import EMBEDDED_MODEL, load_pipeline, one_line

ENCODER_FILE, HEADS_FILE = "encoder.onnx", "heads.onnx"
NEEDED = ("onnx", "onnxscript", "onnxruntime")
HEAD_INPUTS = (
    "segment_embeddings", "lengths", "chord_root_ids", "chord_quality_ids", "chord_mask", "mode_ids",
    "chord_statistics", "tonality",
)  # fmt: skip
SAMPLES = [EMBEDDED_MODEL / "samples" / f"{name}.ogg" for name in ("bright", "dark")]


class ONNXModel:
    """An exported model: what [`MERFeatureExtractor`] makes of music in, scores out, by onnxruntime.

    Args:
        folder (`str` or `Path`): what this command wrote.
        options: of `onnxruntime.InferenceSession`, such as `providers`.
    """

    def __init__(self, folder, **options):
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        options = {"sess_options": settings, "providers": onnxruntime.get_available_providers()} | options
        self.encoder, self.heads = (
            onnxruntime.InferenceSession(Path(folder, name), **options) for name in (ENCODER_FILE, HEADS_FILE)
        )

    def encode(self, input_values, lengths):
        """Segments (B, S, T) and their real lengths (B, S) -> embeddings (B, S, D), float32; 0 where there is none."""
        embeddings = np.zeros((*lengths.shape, self.encoder.get_outputs()[0].shape[1]), dtype=np.float32)
        for length in np.unique(lengths[lengths > 0]):
            for clip, segment in np.argwhere(lengths == length):  # a batch would gain nothing here, and take memory
                values = input_values[clip, segment, :length]
                embeddings[clip, segment] = self.encoder.run(None, {"input_values": values[None]})[0][0]
        return embeddings

    def __call__(self, inputs):
        """Output of [`MERFeatureExtractor`] with `return_tensors="np"` -> logits (B, tags), valence/arousal (B, 2)."""
        embeddings = self.encode(inputs["input_values"], inputs["lengths"])
        inputs = {"segment_embeddings": embeddings} | {name: inputs[name] for name in HEAD_INPUTS[1:]}
        known = {given.name for given in self.heads.get_inputs()}  # a model without chords does not ask for them
        return tuple(self.heads.run(None, {name: value for name, value in inputs.items() if name in known}))


def export_onnx(model, extractor, out, int8=False):
    """Write the files of an ONNX model into the folder `out`; see the module's docstring.

    Args:
        model (`MERForAudioClassification`), extractor (`MERFeatureExtractor`): what to write.
        out (`Path`): a folder, made where it is missing.
        int8 (`bool`): quantise the encoder's linear layers.

    Raises:
        ImportError: packages are missing; the message names them.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"{', '.join(missing)} is missing; pip install 'mer[onnx]'.")
    import torch
    from torch.export import Dim

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mer = model.mer

        def forward(self, input_values):
            return self.mer.encode_segments(input_values)

    class Heads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, *values):
            output = self.model(**dict(zip(HEAD_INPUTS, values)))
            return output.logits, output.valence_arousal

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    model = model.float().eval()
    segments, samples = Dim("segments"), Dim("samples", min=extractor.sampling_rate // 10)
    clips, per_clip, chords = Dim("clips"), Dim("segments_of_a_clip"), Dim("chords", max=10_000)
    # Tensors of their own: inputs that are one tensor in the example would stay one.
    ids = [torch.ones(shape, dtype=torch.long) for shape in ((3, 4), (3, 7), (3, 7), (3, 7), (3,))]
    numbers = [torch.rand(3, len(unknown)) for unknown in (NO_CHORDS, NO_TONALITY)]
    example = (torch.randn(3, 4, model.config.embedding_size), *ids, *numbers)
    places = (*[{0: clips, 1: per_clip}] * 2, *[{0: clips, 1: chords}] * 3, *[{0: clips}] * 3)
    _write(Encoder(), (torch.randn(2, 2 * extractor.sampling_rate),), ({0: segments, 1: samples},),
        ("input_values",), ("segment_embeddings",), out / ENCODER_FILE)  # fmt: skip
    _write(Heads(), example, (places,), HEAD_INPUTS, ("logits", "valence_arousal"), out / HEADS_FILE)
    if int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            out / ENCODER_FILE, out / ENCODER_FILE, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
            weight_type=QuantType.QInt8,
        )  # fmt: skip
    model.config.to_json_file(out / "config.json")
    extractor.to_json_file(out / "preprocessor_config.json")


def _write(module, example, places, inputs, outputs, path):
    import torch

    # It warns of operators of torchvision, which nobody has here.
    logging.getLogger("torch.onnx._internal.exporter").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(), example, dynamo=True, dynamic_shapes=places, input_names=inputs, output_names=outputs,
            verbose=False,
        )  # fmt: skip
    program.save(path, external_data=False)


def compare(pipe, exported, paths):
    """Largest differences between a pipeline's model and an exported one: of tag probabilities, and of V/A (1 to 9)."""
    import torch
    from scipy.special import expit

    from ..feature_extraction_mer import load_audio

    tags = valence_arousal = 0.0
    for path in paths:
        waveform, rate = load_audio(path)
        inputs = pipe.feature_extractor(waveform, sampling_rate=rate, return_tensors="np")
        with torch.no_grad():
            here = pipe.model(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        logits, rated = exported(inputs)
        tags = max(tags, float(np.abs(expit(logits) - here.logits.sigmoid().numpy()).max()))
        valence_arousal = max(valence_arousal, float(np.abs(rated - here.valence_arousal.numpy()).max()))
    return tags, valence_arousal


def main(argv=None):
    """Run the command; returns 0, or 1 if it cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--model", default=EMBEDDED_MODEL, help="folder or Hub id; default: the embedded mer-small")
    parser.add_argument("--int8", action="store_true", help="quantise the encoder's linear layers")
    parser.add_argument("--check", nargs="+", default=SAMPLES, metavar="AUDIO", help="music to compare the answers on")
    args = parser.parse_args(argv)
    try:
        pipe = load_pipeline(args.model)
        export_onnx(pipe.model, pipe.feature_extractor, args.out, args.int8)
        tags, valence_arousal = compare(pipe, ONNXModel(args.out), args.check)
    except (OSError, ValueError, ImportError) as error:
        print(f"export_onnx: {one_line(error)}", file=sys.stderr)
        return 1
    for path in sorted(args.out.iterdir()):
        print(f"{path.name:28} {path.stat().st_size / 2**20:8.1f} MB")
    print(f"largest difference on {len(args.check)} files: {tags:.2g} in a tag's probability, ", end="")
    print(f"{valence_arousal:.2g} in valence or arousal (1 to 9)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
