"""Convert the checkpoint that Kang & Herremans (2025) released into a MER model.

    python -m mer.scripts.convert_music2emo CHECKPOINT OUT [--encoder m-a-p/MERT-v1-95M]

CHECKPOINT is a file of PyTorch Lightning; it holds the heads, and the encoder comes from where they had it. OUT becomes
a folder that `pipeline` opens. With the same chords, key and audio it answers what their network answers. Two things
differ in use: their inference code gives every song the mode 0, ours the one that is detected; and the recogniser
of chords is another one.

Nothing in the file is run: it is a pickle, of which only tensors and plain containers are read.
"""

import argparse
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch

from .. import MERFeatureExtractor, MERForAudioClassification
from .export_hub import export
from .predict import one_line

ENCODER = "m-a-p/MERT-v1-95M"
# Modules whose objects a checkpoint of Lightning may hold beside the weights.
HARMLESS = ("argparse", "lightning", "lightning_fabric", "numpy", "omegaconf", "pathlib", "pytorch_lightning", "typing")
# Their names and ours; what stands behind stays the same.
NAMES = {
    "model.chord_root_embedding.": "mer.chord_encoder.root_embedding.",
    "model.chord_attr_embedding.": "mer.chord_encoder.quality_embedding.",
    "model.chord_transformer.layers.": "mer.chord_encoder.transformer.layers.",
    "model.input_proj.0.": "mer.trunk.",
    "model.classification_branch.0.": "mood_head.0.",
    "model.classification_branch.2.": "mood_head.3.",
    "model.regression_branch.0.": "valence_arousal_head.0.",
    "model.regression_branch.2.": "valence_arousal_head.3.",
}


class _Inert:
    """Stands in for every foreign class of a file: takes whatever it is given and does nothing with it."""

    def __new__(cls, *args):
        return super().__new__(cls)

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


def read_weights(path):
    """The `state_dict` of a Lightning checkpoint, tensors by name.

    Raises:
        ValueError: no such checkpoint, or one that holds what it has no need of; the sentence says what.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not a whole checkpoint of PyTorch (version 1.6 or later).")
    refused = []
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        refused = [name for name in foreign if name.split(".")[0] not in HARMLESS]
        if not refused:
            # torch puts items only into dictionaries that it knows.
            inert = [(OrderedDict if "Dict" in name.rpartition(".")[2] else _Inert, name) for name in foreign]
            with torch.serialization.safe_globals(inert):
                checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no common kind for all that can be wrong with a file
        raise ValueError(f"{path}: cannot be read as weights: {one_line(error)}") from error
    if refused:
        raise ValueError(f"{path}: holds {', '.join(sorted(refused))}, which no weights need; it is not opened.")
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in weights.values()):
        raise ValueError(f"{path}: has no state_dict of tensors.")
    return weights


def convert(weights, model):
    """Put their weights into a model that was made by `from_encoder`.

    Raises:
        ValueError: weights are missing, unknown, or of another shape; the sentence lists them.
    """
    renamed, unknown = {}, []
    for name, tensor in weights.items():
        prefix = next((prefix for prefix in NAMES if name.startswith(prefix)), None)
        if prefix is None:
            unknown.append(name)
        else:
            renamed[NAMES[prefix] + name.removeprefix(prefix)] = tensor
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("mer.encoder.")}
    problems = {
        "unknown": [*unknown, *(renamed.keys() - own.keys())],
        "missing": own.keys() - renamed.keys(),
        "of another shape": [
            f"{name} {tuple(renamed[name].shape)} for {tuple(own[name].shape)}"
            for name in own.keys() & renamed.keys()
            if own[name].shape != renamed[name].shape
        ],
    }
    if any(problems.values()):
        lists = (f"{kind}: {', '.join(sorted(names))}" for kind, names in problems.items() if names)
        raise ValueError(f"not the weights of that network; {'; '.join(lists)}.")
    model.load_state_dict(renamed, strict=False)
    return model


def main(argv=None):
    """Run the command; returns 0, or 1 if something does not fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--encoder", default=ENCODER, help="folder or Hub id of the encoder that the heads belong to")
    parser.add_argument("--layers", type=int, nargs=2, default=[6, 7], help="layers of it that the heads read")
    args = parser.parse_args(argv)
    try:
        weights = read_weights(args.checkpoint)
        model = MERForAudioClassification.from_encoder(
            args.encoder, args.layers, chord_padding_mask=False, segment_pooling="equal"
        )
        try:
            convert(weights, model)
        except ValueError as error:
            raise ValueError(f"{args.checkpoint}: {error}") from error
        export(model, MERFeatureExtractor.from_encoder(args.encoder), args.out)
    except (OSError, ValueError) as error:
        print(f"convert_music2emo: {one_line(error)}", file=sys.stderr)
        return 1
    print(f"{args.out}: {len(weights)} tensors of {args.checkpoint} on the encoder {args.encoder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
