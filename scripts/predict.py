"""``mer predict``: mood tags, valence, arousal, key and chords of files and folders."""

import csv
import io
import json
import os
import signal
import sys
import textwrap
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
    problem = None
    if args.top_k is not None and args.top_k < 1:
        problem = "--top-k must be 1 or more"
    elif args.output is not None:
        problem = check_output(args.output)
    if problem:
        print(f"mer predict: {problem}", file=sys.stderr)
        return 2
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name or a bar that the terminal cannot show is no reason to stop
            stream.reconfigure(errors="replace")
    try:
        pipe = load_pipeline(args.model)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        print(f"mer predict: cannot load the model {args.model}: {one_line(error)}", file=sys.stderr)
        return 1
    if args.top_k is None and args.format == "table":
        args.top_k = 5
    files = list(find_files(args.paths, args.recursive))
    done = failed = 0
    hidden = args.quiet or len(files) < 2
    try:
        with open_output(args.output, args.quiet) as output:
            write = WRITERS[args.format](output, pipe.model.config.id2label.values())
            bar = tqdm(files, desc="mer predict", unit="file", disable=hidden, file=sys.stderr)
            try:
                for path, problem in stoppable(bar):
                    record = {"path": path, "error": problem} if problem else predict(pipe, path, args.top_k)
                    write(record)
                    if record["error"] is None:
                        done += 1
                        continue
                    failed += 1
                    if not args.quiet and (args.output is not None or args.format != "table"):
                        tqdm.write(f"mer predict: {record['error']}", file=sys.stderr)
                    if args.strict:
                        raise Stopped
            except (KeyboardInterrupt, Stopped):
                write(None)  # what is done stays readable
                raise
            write(None)
    except Stopped:
        pass
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"mer predict: cannot write the output: {one_line(error)}", file=sys.stderr)
        return 1
    if not hidden:
        print(f"{done} done, {failed} failed", file=sys.stderr)
    return 1 if failed else 0


def stoppable(items):
    """Yield `items`; Ctrl-C raises KeyboardInterrupt before the next one, pressed twice at once.

    Raised in the middle of a file, it would be lost in a decoder's callback, or abort the process.
    """
    pressed = []
    previous = signal.getsignal(signal.SIGINT)

    def note(number, frame):
        pressed.append(number)
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, note)
    try:
        for item in items:
            if pressed:
                raise KeyboardInterrupt
            yield item
    finally:
        signal.signal(signal.SIGINT, previous)


class Stopped(Exception):
    """`--strict` met a file that fails."""


def one_line(error):
    """The first sentence of an error's message, on one line."""
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split()) if lines else type(error).__name__


def load_pipeline(model=EMBEDDED_MODEL):
    """The pipeline of a MER model: a folder or a Hub id; by default the embedded ``mer-small``, without any network.

    Raises:
        OSError: there is no such model, or a file of it is missing.
        ValueError: it is not a MER model, or its files are damaged.
        ImportError: chords and key cannot be recognised here; says what to install.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import PreTrainedConfig
    from transformers.utils import logging

    from .. import MERFeatureExtractor, MERForAudioClassification, MERPipeline

    logging.disable_progress_bar()
    if os.path.isdir(model) and not os.path.isfile(os.path.join(model, "config.json")):
        raise FileNotFoundError("the folder holds no config.json.")
    kind = PreTrainedConfig.get_config_dict(model)[0].get("model_type")
    if kind != "mer":
        raise ValueError(f"its config.json describes {kind or 'no model'}, not a MER model.")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what does not fit is said below, in a sentence in place of a table
    try:
        network, report = MERForAudioClassification.from_pretrained(
            model, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except SafetensorError as error:
        raise ValueError(f"its weights are damaged ({one_line(error)}).") from error
    except StrictDataclassError as error:
        raise ValueError(f"its config.json is wrong: {one_line(error.__cause__ or error)}") from error
    finally:
        logging.set_verbosity(verbosity)
    unfit = sorted(report["missing_keys"]) + sorted(name for name, *_ in report["mismatched_keys"])
    if unfit:
        raise ValueError(f"its weights do not fit its config.json: {unfit[0]} is missing or of another shape.")
    return MERPipeline(model=network, feature_extractor=MERFeatureExtractor.from_pretrained(model))


def find_files(paths, recursive):
    """Yield (path, problem) of every file to do, in order; the problem is None or a sentence."""
    for path in paths:
        if not os.path.isdir(path):
            yield path, None
            continue
        below = Path(path).rglob("*") if recursive else Path(path).iterdir()
        found = sorted(
            file
            for file in below  # "._song.mp3" is no music, but what macOS leaves beside it on other systems' disks
            if file.suffix.lower() in SUFFIXES and not file.name.startswith("._") and file.is_file()
        )
        for file in found:
            yield str(file), None
        if not found:
            hint = "" if recursive else "; -r looks into the folders below"
            yield path, f"{path}: a folder without audio files ({' '.join(sorted(SUFFIXES))}){hint}."


def predict(pipe, path, top_k=None):
    """One record: `path`, `error` (None or a sentence), then what the pipeline returns and the model's name."""
    try:
        answer = pipe(path, top_k=top_k, return_valence_arousal=True)
    except (OSError, ValueError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        return {"path": path, "error": message if path in message else f"{path}: {message}"}
    except Exception as error:  # whatever is wrong with this file, the others are still done
        return {"path": path, "error": f"{path}: {type(error).__name__}: {one_line(error)}"}
    name = pipe.model.config.name_or_path
    return {"path": path, "error": None, **answer, "model": "mer-small" if name == str(EMBEDDED_MODEL) else name}


def check_output(path):
    """What keeps `path` from being written, as a sentence, or `None`."""
    if path.suffix.lower() in SUFFIXES:
        return f"{path}: named like music; the output is text"
    if path.is_dir():
        return f"{path}: a folder; -o names a file"
    parent = path.absolute().parent
    if not parent.is_dir():
        return f"{path.parent}: no such folder to write to"
    if not os.access(parent, os.W_OK) and not path.exists():
        return f"{path.parent}: this folder cannot be written to"
    return None


@contextmanager
def open_output(path, quiet=False):
    """Text stream to `path` through a temporary name beside it, or to standard output.

    Left before the end, `path` stays as it was, and what was written stays under the temporary name, which is said.
    """
    if path is None:
        yield sys.stdout
        return
    if path.exists() and not path.is_file():  # a device or a pipe: there is nothing to replace
        with open(path, "w", encoding="utf-8", errors="replace", newline="") as file:
            yield file
        return
    path = Path(os.path.realpath(path))
    temporary = path.with_name(path.name + ".part")
    complete = False
    try:
        with open(temporary, "w", encoding="utf-8", errors="replace", newline="") as file:
            yield file
        os.replace(temporary, path)
        complete = True
    finally:
        if not complete and not quiet and temporary.is_file():
            print(f"mer predict: stopped early; what was done is in {temporary}", file=sys.stderr)


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
    first = True

    def write(record):
        nonlocal first
        if record is None:
            output.write("[]\n" if first else "\n]\n")
            output.flush()
            return
        output.write("[\n" if first else ",\n")
        output.write(textwrap.indent(json.dumps(record, ensure_ascii=False, indent=2), "  "))
        output.flush()
        first = False

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
