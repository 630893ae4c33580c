"""Write a model as a self-contained Hub folder: code, configuration, weights, preprocessor, card.

    python -m mer.scripts.export_hub OUT [--model DIR]
    python -m mer.scripts.export_hub OUT --encoder m-a-p/MERT-v1-95M [--layers 6 7]     # with new, untrained heads
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from .. import MERFeatureExtractor, MERForAudioClassification
from ..feature_extraction_mer import RESAMPLERS
from .model_card import make_card
from .predict import EMBEDDED_MODEL, load_pipeline, one_line

ROOT = Path(__file__).resolve().parent.parent


def export(model, extractor, out, card=None):
    """Write everything that `from_pretrained(out, trust_remote_code=True)` and `pipeline` need into the folder `out`.

    Unlike `save_pretrained`, it adds the licence and a card (`card`, or one that is made of the configuration alone),
    and can write over the checkout that the code runs from, whose card it leaves as it is.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    # Through a folder of its own: saving copies the code, which must not be copied onto itself.
    with tempfile.TemporaryDirectory(dir=out) as folder:
        model.save_pretrained(folder)
        extractor.save_pretrained(folder)
        for file in sorted(Path(folder).iterdir()):
            if file.suffix != ".py":
                shutil.move(file, out / file.name)
    if out.resolve() != ROOT:
        for file in [*ROOT.glob("*_mer.py"), ROOT / "LICENSE"]:
            if file.is_file():
                shutil.copyfile(file, out / file.name)
        (out / "README.md").write_text(card or make_card(model), encoding="utf-8")
    return out


def main(argv=None):
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--model", default=EMBEDDED_MODEL, help="folder or Hub id; default: the embedded mer-small")
    place.add_argument("--encoder", help="folder or Hub id of a pretrained encoder, to which new heads are put")
    parser.add_argument("--layers", type=int, nargs="+", default=[6, 7], help="layers of the encoder to read")
    parser.add_argument("--resampler", choices=RESAMPLERS, help="what resamples; default: what does so far, or soxr")
    args = parser.parse_args(argv)
    options = {} if args.resampler is None else {"resampler": args.resampler}
    try:
        if args.encoder:
            model = MERForAudioClassification.from_encoder(args.encoder, args.layers)
            extractor = MERFeatureExtractor.from_encoder(args.encoder, **options)
        else:
            model = load_pipeline(args.model).model
            extractor = MERFeatureExtractor.from_pretrained(args.model, **options)
    except (OSError, ValueError, ImportError) as error:
        print(f"export_hub: {one_line(error)}", file=sys.stderr)
        return 1
    own = Path(args.model, "README.md")
    card = own.read_text(encoding="utf-8") if own.is_file() and not args.encoder else None
    out = export(model, extractor, args.out, card)
    print(f"{out}: {', '.join(sorted(file.name for file in out.iterdir()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
