"""``mer predict``: mood tags, valence, arousal, key and chords of files and folders."""

import csv
import io
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

EXAMPLES = """examples:
  mer predict song.mp3                          a readable answer
  mer predict -r Music -f csv -o moods.csv      a whole library as a table, one column a tag
  mer predict *.flac -f jsonl > moods.jsonl     one JSON record a line

Valence and arousal are on a scale from 1 to 9; tag scores are probabilities from 0 to 1.
Exit codes: 0 all done, 1 some file failed (its row says why), 2 wrong usage."""

EMBEDDED_MODEL = Path(__file__).resolve().parent.parent  # mer-small lies at the package's root
SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"}
BAR = 20


def add_arguments(parser):
    """Declare the arguments of ``mer predict``."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="audio files, folders or http(s) addresses")
    parser.add_argument("-r", "--recursive", action="store_true", help="folders with all that lies below them")
    parser.add_argument("-f", "--format", choices=("table", "json", "jsonl", "csv"), default="table")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to FILE, which appears when complete")
    parser.add_argument("--model", default=EMBEDDED_MODEL, metavar="DIR_OR_ID", help="default: the embedded mer-small")
    parser.add_argument("--top-k", type=int, metavar="N", help="tags shown (default: 5 in a table, else all)")
    parser.add_argument("--strict", action="store_true", help="stop at the first file that fails")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no summary")


def run(args):
    """Run ``mer predict``; returns the exit code."""
    if args.top_k is not None and args.top_k < 1:
        print("mer predict: --top-k must be 1 or more", file=sys.stderr)
        return 2
    if args.output is not None and not args.output.absolute().parent.is_dir():
        print(f"mer predict: {args.output.parent}: no such folder to write to", file=sys.stderr)
        return 2
    try:
        pipe = load_pipeline(args.model)
    except (OSError, ValueError, ImportError) as error:
        print(f"mer predict: cannot load the model {args.model}: {error}", file=sys.stderr)
        return 1
    if args.top_k is None and args.format == "table":
        args.top_k = 5
    files = list(find_files(args.paths, args.recursive))
    done = failed = 0
    hidden = args.quiet or len(files) < 2
    with open_output(args.output) as output:
        write = WRITERS[args.format](output, pipe.model.config.id2label.values())
        for path, problem in tqdm(files, desc="mer predict", unit="file", disable=hidden, file=sys.stderr):
            record = {"path": path, "error": problem} if problem else predict(pipe, path, args.top_k)
            write(record)
            if record["error"] is None:
                done += 1
                continue
            failed += 1
            if args.output is not None or args.format != "table":
                tqdm.write(f"mer predict: {record['error']}", file=sys.stderr)
            if args.strict:
                break
        write(None)
    if not hidden:
        print(f"{done} done, {failed} failed", file=sys.stderr)
    return 1 if failed else 0


def load_pipeline(model=EMBEDDED_MODEL):
    """The pipeline of a MER model: a folder or a Hub id; by default the embedded ``mer-small``, without any network."""
    from transformers.utils import logging

    from ..feature_extraction_mer import MERFeatureExtractor
    from ..modeling_mer import MERForAudioClassification
    from ..pipeline_mer import MERPipeline

    logging.disable_progress_bar()
    return MERPipeline(
        model=MERForAudioClassification.from_pretrained(model),
        feature_extractor=MERFeatureExtractor.from_pretrained(model),
    )


def find_files(paths, recursive):
    """Yield (path, problem) of every file to do, in order; the problem is None or a sentence."""
    for path in paths:
        if not os.path.isdir(path):
            yield path, None
            continue
        below = Path(path).rglob("*") if recursive else Path(path).iterdir()
        found = sorted(file for file in below if file.suffix.lower() in SUFFIXES and file.is_file())
        for file in found:
            yield str(file), None
        if not found:
            hint = "" if recursive else "; -r looks into the folders below"
            yield path, f"{path}: a folder without audio files ({' '.join(sorted(SUFFIXES))}){hint}."


def predict(pipe, path, top_k=None):
    """One record: `path`, `error` (None or a sentence), then what the pipeline returns and the model's name."""
    try:
        answer = pipe(path, top_k=top_k, return_valence_arousal=True)
    except (OSError, ValueError, RuntimeError) as error:
        message = str(error)
        return {"path": path, "error": message if path in message else f"{path}: {message}"}
    name = pipe.model.config.name_or_path
    return {"path": path, "error": None, **answer, "model": "mer-small" if name == str(EMBEDDED_MODEL) else name}


@contextmanager
def open_output(path):
    """Text stream to `path` through a temporary name beside it, or to standard output."""
    if path is None:
        yield sys.stdout
        return
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "w", encoding="utf-8", newline="") as file:
        yield file
    os.replace(temporary, path)


# A writer is made with the stream and the tags; it is called with every record, and with None at the end.


def _table(output, tags):
    def write(record):
        if record is not None:
            output.write(format_record(record) + "\n")
            output.flush()

    return write


def _jsonl(output, tags):
    def write(record):
        if record is not None:
            output.write(json.dumps(record, ensure_ascii=False) + "\n")
            output.flush()

    return write


def _json(output, tags):
    records = []

    def write(record):
        if record is not None:
            records.append(record)
        else:
            json.dump(records, output, ensure_ascii=False, indent=2)
            output.write("\n")

    return write


def _csv(output, tags):
    tags = list(tags)
    columns = ["path", "error", "valence", "arousal", "scale_low", "scale_high", "key", "chords", "model", *tags]
    writer = csv.DictWriter(output, columns, lineterminator="\n", restval="")
    writer.writeheader()

    def write(record):
        if record is None:
            return
        row = {"path": record["path"], "error": record["error"] or ""}
        if record["error"] is None:
            row |= {tag["label"]: f"{tag['score']:.4f}" for tag in record["tags"]}
            row |= {
                "valence": f"{record['valence']:.3f}",
                "arousal": f"{record['arousal']:.3f}",
                "scale_low": f"{record['scale'][0]:g}",
                "scale_high": f"{record['scale'][1]:g}",
                "key": record["key"] or "",
                "chords": " ".join(chord["label"] for chord in record["chords"]),
                "model": record["model"],
            }
        writer.writerow(row)
        output.flush()

    return write


WRITERS = {"table": _table, "json": _json, "jsonl": _jsonl, "csv": _csv}


def format_record(record):
    """A record as a few readable lines."""
    lines = io.StringIO()
    print(record["path"], file=lines)
    if record["error"] is not None:
        print(f"  error    {record['error']}", file=lines)
        return lines.getvalue()
    low, high = record["scale"]
    for name, least, most in (("valence", "unpleasant", "pleasant"), ("arousal", "calm", "energetic")):
        value = record[name]
        place = round((value - low) / (high - low) * BAR)
        axis = "".join("●" if i == place else "|" if i == BAR // 2 else "·" for i in range(BAR + 1))
        print(f"  {name:8} {value:4.1f}   {low:g} {axis} {high:g}   {least} .. {most}", file=lines)
    for index, tag in enumerate(record["tags"]):
        bar = "█" * round(tag["score"] * BAR)
        print(f"  {'tags' if index == 0 else '':8} {tag['score']:4.2f}   {bar:{BAR}} {tag['label']}", file=lines)
    chords = [chord["label"] for chord in record["chords"] if chord["label"] != "N"]
    more = " ..." if len(chords) > 8 else ""
    print(f"  {'key':8} {record['key'] or 'none found'}", file=lines)
    print(f"  {'chords':8} {'  '.join(chords[:8]) or 'none found'}{more}", file=lines)
    return lines.getvalue()
