"""Write a model as a self-contained Hub folder: code, configuration, weights, preprocessor, card.

    python -m mer.scripts.export_hub OUT [--model DIR]
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from .. import MERFeatureExtractor, MERForAudioClassification
from .predict import EMBEDDED_MODEL

ROOT = Path(__file__).resolve().parent.parent


def export(model, extractor, out):
    """Write everything that `from_pretrained(out, trust_remote_code=True)` and `pipeline` need into the folder `out`.

    Unlike `save_pretrained`, it adds the card and the licence, and can write over the checkout that the code runs from.
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
    for file in [*ROOT.glob("*_mer.py"), ROOT / "README.md", ROOT / "LICENSE"]:
        if file.is_file() and file.parent != out.resolve():
            shutil.copyfile(file, out / file.name)
    return out


def main(argv=None):
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--model", default=EMBEDDED_MODEL, help="folder or Hub id; default: the embedded mer-small")
    args = parser.parse_args(argv)
    model = MERForAudioClassification.from_pretrained(args.model)
    out = export(model, MERFeatureExtractor.from_pretrained(args.model), args.out)
    print(f"{out}: {', '.join(sorted(file.name for file in out.iterdir()))}")


if __name__ == "__main__":
    main()
