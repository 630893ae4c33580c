"""Push a trained model to the Hub, so that it works by its id.

    python -m mer.scripts.push_to_hub FOLDER OWNER/NAME [--private]
    python -m mer.scripts.push_to_hub FOLDER OWNER/NAME --dry-run DIR

FOLDER is what a training or `export_hub` left. Before anything is sent, the folder's files for the Hub (code, weights,
configuration, card, licence, record and pictures of the run; no checkpoints) are laid out apart and tried: the pipeline
must open them in a process of its own and answer. `--dry-run` leaves exactly these files in DIR and sends nothing. It
needs a token: `hf auth login`, or HF_TOKEN.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from .. import MERForAudioClassification
from .export_hub import ROOT
from .model_card import PLACEHOLDER, RECORD_FILE, make_card, read_record
from .predict import one_line

NEEDED = ("config.json", "preprocessor_config.json")
OTHERS = ("README.md", "LICENSE", RECORD_FILE, "eval_results.json", "learning_curves.png")
PATTERNS = ("*_mer.py", "model*.safetensors", "model.safetensors.index.json", "valence_arousal_*.png")
TRY = """
import sys, numpy
from transformers import pipeline
pipe = pipeline("audio-classification", model=sys.argv[1], trust_remote_code=True)
noise = numpy.random.default_rng(0).standard_normal(pipe.feature_extractor.sampling_rate).astype("float32")
answer = pipe({"array": noise, "sampling_rate": pipe.feature_extractor.sampling_rate}, return_valence_arousal=True)
assert len(answer["tags"]) == pipe.model.config.num_labels
assert all(numpy.isfinite(tag["score"]) for tag in answer["tags"]) and numpy.isfinite(answer["valence"])
"""


def lay_out(folder, out, repo_id):
    """Copy what belongs on the Hub from `folder` into the empty folder `out`, with a card for `repo_id`.

    Raises:
        ValueError: something is missing, or the copy does not work.
    """
    folder, out = Path(folder), Path(out)
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    missing += [] if any(folder.glob("model*.safetensors")) else ["model.safetensors"]
    if missing:
        raise ValueError(f"{folder}: no model to push, {', '.join(missing)} is missing.")
    out.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in (*NEEDED, *OTHERS) if (folder / name).is_file()]
    for pattern in PATTERNS:
        files += folder.glob(pattern)
    for file in [*ROOT.glob("*_mer.py"), ROOT / "LICENSE", *files]:  # the folder's own code wins
        if file.is_file():
            shutil.copyfile(file, out / file.name)
    with tempfile.TemporaryDirectory() as elsewhere:
        environment = os.environ | {"HF_MODULES_CACHE": elsewhere, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", TRY, str(out.resolve())]
        tried = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    if tried.returncode:
        cause = tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"]
        raise ValueError(f"{folder}: the pipeline does not open it: {cause[-1]}")
    card = out / "README.md"
    if card.is_file():  # what its author wrote there stays
        text = card.read_text(encoding="utf-8").replace(PLACEHOLDER, repo_id)
    else:
        text = make_card(MERForAudioClassification.from_pretrained(out), read_record(folder), repo_id)
    card.write_text(text, encoding="utf-8")


def push(folder, repo_id, private=None, message="Upload model", revision=None):
    """Lay `folder` out, try it, and upload it; returns the repository's address."""
    with tempfile.TemporaryDirectory() as out:
        lay_out(folder, out, repo_id)
        api = HfApi()
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=out, commit_message=message, revision=revision)
    return str(url)


def main(argv=None):
    """Run the command; returns 0, or 1 if nothing was pushed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("repo_id", metavar="OWNER/NAME")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.add_argument("--message", default="Upload model", help="of the commit")
    parser.add_argument("--revision", help="branch to push to")
    parser.add_argument("--dry-run", metavar="DIR", type=Path, help="write what would be pushed, and push nothing")
    args = parser.parse_args(argv)
    try:
        validate_repo_id(args.repo_id)
        if args.dry_run:
            if args.dry_run.exists() and any(args.dry_run.iterdir()):
                raise ValueError(f"{args.dry_run}: not empty; name a new folder.")
            with tempfile.TemporaryDirectory() as out:  # a folder that does not work leaves nothing behind
                lay_out(args.folder, out, args.repo_id)
                shutil.copytree(out, args.dry_run, dirs_exist_ok=True)
            print(f"{args.dry_run}: {', '.join(sorted(file.name for file in args.dry_run.iterdir()))}")
        else:
            print(push(args.folder, args.repo_id, args.private, args.message, args.revision))
    except HfHubHTTPError as error:
        print(f"push_to_hub: the Hub refused ({one_line(error)}); is the token one that may write?", file=sys.stderr)
        return 1
    except (OSError, ValueError, HFValidationError) as error:
        print(f"push_to_hub: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
