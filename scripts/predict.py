"""``mer predict``: mood tags, valence, arousal, key and chords of files and folders."""

import ctypes
import hashlib
import math
import os
import signal
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

from tqdm import tqdm

from .output import (
    ERRORS, RESUMABLE, SUFFIXES, WRITERS, RowsOutput, Settings, check_output, content_hash, open_output
)  # fmt: skip

EXAMPLES = """examples:
  mer predict song.mp3                          a readable answer
  mer predict song.mp3 --curve 5 --plot song.png
                                                how the mood changes, in windows of 5 s, and a picture of it
  mer predict -r Music -f csv -o moods.csv      a whole library as a table, one column a tag
  mer predict -r Music --glob '*.flac' --plot music.svg
                                                the FLAC files alone, and where they lie in valence and arousal
  mer predict *.flac -f jsonl > moods.jsonl     one JSON record a line
  mer predict -r Music -f csv -o moods.csv --workers 4 --resume
                                                a large one: goes on where it was cut, skips what is unchanged
  accelerate launch --num_processes 2 -m mer.scripts.cli predict -r Music -f csv -o moods.csv
                                                on several GPUs

columns of csv:
  path sha256 error        the file, its content, and why there is nothing else (or nothing)
  start end                with --curve, where a file has a row a window: seconds from the start of the song
  duration                 seconds
  valence arousal          of the file or window, on the scale from scale_low to scale_high, which is 1 to 9
  Q1 Q2 Q3 Q4              of the whole file: how likely it is pleasant and energetic (Q1), unpleasant and energetic (Q2),
                           unpleasant and calm (Q3), pleasant and calm (Q4)
  key moods threshold      of the whole file; moods, separated by "; ", are the tags whose score reaches the threshold
                           (which is empty where each tag has the model's own)
  chords model             chords in order, and the model with its version
  action ... uplifting     the score of each tag, 0 to 1; empty where --top-k, or the 5 of a window, left it out
json and jsonl: the same names, tags and chords as lists, scale as [1, 9], and with --curve the list curve of windows.

Valence and arousal are on a scale from 1 to 9; tag scores are probabilities from 0 to 1.
Exit codes: 0 all done, 1 some file failed (its row says why) or the output could not be written, 2 wrong usage,
130 interrupted."""

EMBEDDED_MODEL = Path(__file__).resolve().parent.parent  # mer-small lies at the package's root
TABLE_TAGS = 5


def add_arguments(parser):
    """Declare the arguments of ``mer predict``."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="audio files, folders or http(s) addresses")
    parser.add_argument("-r", "--recursive", action="store_true", help="folders with all that lies below them")
    parser.add_argument(
        "--glob", metavar="PATTERN", help="of folders, the music whose file name fits, such as '*.flac' or 'live*'"
    )
    parser.add_argument("-f", "--format", choices=("table", "json", "jsonl", "csv"), default="table")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to FILE, which appears when complete")
    parser.add_argument("--model", default=EMBEDDED_MODEL, metavar="DIR_OR_ID", help="default: the embedded mer-small")
    parser.add_argument(
        "--top-k", type=int, metavar="N", help=f"tags shown (default: {TABLE_TAGS} in a table, else all)"
    )
    parser.add_argument(
        "--threshold", type=float, metavar="X",
        help="score from 0 to 1 that makes a tag one of the moods (default: the model's own of each tag, else 0.5)",
    )  # fmt: skip
    parser.add_argument(
        "--curve", type=float, metavar="SECONDS", help="also the mood over time, in windows of so long (1 to 30 s)"
    )
    parser.add_argument(
        "--hop", type=float, metavar="SECONDS", help="with --curve: from window to window (default: half a window)"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png|svg",
        help="draw valence, arousal and tags of a file, with --curve its mood over time; of several, where they lie",
    )  # fmt: skip
    parser.add_argument(
        "--resume", action="store_true",
        help="with -o and csv or jsonl (jsonl with --curve or --plot): files that FILE or its .part holds already, "
        "unchanged, by the same model with the same --threshold, --top-k and --curve, are not done again",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that decode and hear chords beside the model"
    )
    parser.add_argument(
        "--batch", type=int, default=1, metavar="N", help="segments of 30 s that pass through the model together"
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first file that fails")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no summary")


def run(args):
    """Run ``mer predict``; returns the exit code."""
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1  # under accelerate launch
    by_row = args.resume or several
    problem = _usage_problem(args, several)
    if problem:
        print(f"mer predict: {problem}", file=sys.stderr)
        return 2
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name or a bar that the terminal cannot show is no reason to stop
            stream.reconfigure(errors="replace" if stream is sys.stderr else ERRORS[args.format])
    state = None
    if several:
        from .extract_features import make_accelerator

        state = make_accelerator()
        args.quiet = args.quiet or not state.is_main_process
    try:
        pipe = load_pipeline(args.model, None if state is None else state.device)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        print(f"mer predict: cannot load the model {args.model}: {one_line(error)}", file=sys.stderr)
        return 1
    files = list(find_files(args.paths, args.recursive, args.glob))
    tags = list(pipe.model.config.id2label.values())
    start = time.monotonic()
    try:
        if by_row:
            output = RowsOutput(args.output, args.format, tags, _settings(pipe, args))
            tally = _predict_rows(pipe, files, args, output, state)
        else:
            with open_output(args.output, args.quiet, ERRORS[args.format]) as output:
                write = WRITERS[args.format](output, tags, args.curve is not None)
                tally = _predict_all(pipe, files, args, write)
    except Stopped:
        return 1
    except BrokenPipeError:
        raise
    except RuntimeError as error:
        if not _worker_died(error):
            raise
        cause = "the system ended a process of --workers, as it does when memory is short; use fewer"
        print(f"mer predict: {cause}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"mer predict: cannot write the output: {one_line(error)}", file=sys.stderr)
        return 1
    if not args.quiet and len(files) > 1:
        print(tally.summary(time.monotonic() - start), file=sys.stderr)
    if several and not state.is_main_process:
        return 0  # the main process speaks for all; another code would end it
    drawn = args.plot is None or _draw(tally.records, args.plot)
    return 0 if drawn and not tally.failed else 1


def _usage_problem(args, several):
    """What is wrong with the arguments, as a sentence, or `None`."""
    by_row = args.resume or several
    if args.top_k is not None and args.top_k < 1:
        return "--top-k must be 1 or more"
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        return "--threshold must be a score from 0 to 1"
    if args.workers < 0 or args.batch < 1:
        return "--workers must be 0 or more, and --batch 1 or more"
    if by_row and (args.output is None or args.format not in RESUMABLE):
        return f"{'--resume' if args.resume else 'several processes'} need -o FILE and -f {' or '.join(RESUMABLE)}"
    if by_row and args.output.exists() and not args.output.is_file():
        return f"{args.output}: no regular file, which {'--resume needs' if args.resume else 'several processes need'}"
    if several and args.plot is not None:
        return "--plot cannot be drawn by several processes; run it in one"
    if by_row and args.format == "csv" and (args.curve is not None or args.plot is not None):
        option = "--plot" if args.curve is None else "--curve"
        place = "--resume" if args.resume else "several processes"
        return f"{option} with {place} needs -f jsonl, where a file is one row and says it all"
    if args.curve is not None or args.hop is not None:
        from ..pipeline_mer import curve_hop

        try:
            args.hop = curve_hop(args.curve, args.hop)
        except ValueError as error:
            return f"--{error}".rstrip(".")
    problem = None if args.output is None else check_output(args.output)
    if problem is None and args.plot is not None:
        from .pictures import check_picture

        if args.output is not None and os.path.realpath(args.plot) == os.path.realpath(args.output):
            return f"{args.plot}: -o and --plot name one file; name two"
        problem = check_picture(args.plot)
    return problem


def _settings(pipe, args):
    """What the rows of this run depend on beside the music."""
    from ..pipeline_mer import decision_threshold

    threshold = decision_threshold(pipe.model.config, args.threshold)
    return Settings(model_name(pipe), threshold, args.top_k, args.curve, args.hop)


def _draw(records, path):
    """Draw the records; returns whether that was possible, and says why not."""
    from .pictures import save_picture

    try:
        save_picture(records, path)
    except (OSError, ValueError) as error:
        print(f"mer predict: cannot draw {path}: {one_line(error)}", file=sys.stderr)
        return False
    return True


class _Tally:
    """How many files were done and failed and were done before, seconds of music heard, and records for a picture."""

    def __init__(self, plot=False):
        self.done = self.failed = self.before = 0
        self.heard = 0.0
        self.plot, self.records = plot, []

    def add(self, record):
        if record["error"]:
            self.failed += 1
        else:
            self.done += 1
            self.heard += float(record["duration"])
        if self.plot:
            if not record["error"] and self.done > 1:
                # Of many songs only the plane is drawn: thousands of curves need not stay in memory.
                record = {name: value for name, value in record.items() if name not in ("chords", "curve")}
                record["tags"] = record["tags"][:1]
            self.records.append(record)

    def summary(self, seconds):
        """One line for people."""
        before = f" ({self.before} of them before)" if self.before else ""
        speed = f", {self.heard / seconds:.0f} times real time" if self.heard else ""
        return f"{self.done} done{before}, {self.failed} failed in {seconds:.1f} s{speed}"


def _predict_all(pipe, files, args, write, known=0):
    """Write a record of each file; returns their `_Tally`."""
    tally = _Tally(args.plot is not None)
    records = predictions(
        pipe, files, args.top_k, args.workers, args.batch, args.threshold, args.curve, args.hop
    )  # fmt: skip
    hidden = args.quiet or known + len(files) < 2
    bar = tqdm(
        records, "mer predict", known + len(files), initial=known, unit="file", disable=hidden, file=sys.stderr
    )  # fmt: skip
    shorten = args.format == "table" and args.top_k is None
    try:
        for record in stoppable(bar):
            tally.add(record)
            write(record | {"tags": record["tags"][:TABLE_TAGS]} if shorten and "tags" in record else record)
            if record["error"] is None:
                continue
            if not args.quiet and (args.output is not None or args.format != "table"):
                tqdm.write(f"mer predict: {record['error']}", file=sys.stderr)
            if args.strict:
                raise Stopped
    except (KeyboardInterrupt, Stopped, RuntimeError):
        write(None)  # what is done stays readable
        raise
    write(None)
    return tally


def _predict_rows(pipe, files, args, output, state):
    """As [`_predict_all`], of files whose rows are not there yet, dealt out to the processes."""
    process, processes = (0, 1) if state is None else (state.process_index, state.num_processes)
    kept = {}
    if args.resume:
        known = output.read()
        kept = {
            path: known[path]
            for path, problem in files
            if problem is None and path in known and output.still_holds(known[path])
        }
        if process == 0 and not args.quiet and (left := len(known.keys() - {path for path, _ in files})):
            print(f"mer predict: rows of {left} other files, not named now, leave {args.output}", file=sys.stderr)
    if state is not None:
        state.wait_for_everyone()  # all have read
    if process == 0:
        output.begin(kept)
    if state is not None:
        state.wait_for_everyone()
    todo = list(dict.fromkeys(item for item in files if item[0] not in kept))[process::processes]
    with output.open_part(process, args.quiet) as write:
        tally = _predict_all(pipe, todo, args, write, len(kept))
    if state is not None:
        state.wait_for_everyone()
    if process == 0:
        tally = _Tally(args.plot is not None)
        for row in output.finish([path for path, _ in files]):
            tally.add(row)
        tally.before = len(kept)
        tally.heard -= sum(float(row["duration"]) for row in kept.values())
    if state is not None:
        state.wait_for_everyone()  # a process that ends before the table is written ends the others
    return tally


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


def _worker_died(error):
    """Whether torch's error, which comes up wherever this process is, says that a process of `--workers` was ended."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


class Stopped(Exception):
    """`--strict` met a file that fails."""


def one_line(error):
    """The first sentence of an error's message, on one line."""
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split()) if lines else type(error).__name__


def keep_memory():
    """Let freed memory stay with this process, where the C library is glibc; elsewhere do nothing.

    By default every large tensor is memory that the system has cleared page by page: a sixth of the time of a large
    encoder on a CPU. See mallopt(3).
    """
    trim_threshold, mmap_threshold = -1, -3
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    libc.mallopt(mmap_threshold, 1 << 30)
    libc.mallopt(trim_threshold, (1 << 31) - 1)


def load_pipeline(model=EMBEDDED_MODEL, device=None):
    """The pipeline of a MER model: a folder or a Hub id; by default the embedded ``mer-small``, without any network.

    Args:
        model (`str` or `Path`): the folder or Hub id.
        device (`torch.device`, *optional*): where it runs; the first GPU by default, or the CPU.

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

    keep_memory()
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
    return MERPipeline(model=network, feature_extractor=MERFeatureExtractor.from_pretrained(model), device=device)


def find_files(paths, recursive, pattern=None):
    """Yield (path, problem) of every file to do, in order; the problem is None or a sentence.

    Args:
        paths (`list[str]`): files, addresses and folders.
        recursive (`bool`): of folders, also what lies in the folders below.
        pattern (`str`, *optional*): of folders, only names that fit, as in a shell; capital and small letters are one.
    """
    for path in paths:
        if not os.path.isdir(path):
            yield path, None
            continue
        closed = []
        found = [
            file
            for file in _files_below(path, recursive, closed)
            # "._song.mp3" is no music, but what macOS leaves beside it on other systems' disks.
            if file.suffix.lower() in SUFFIXES and not file.name.startswith("._") and file.is_file()
            and (pattern is None or fnmatchcase(file.name.lower(), pattern.lower()))
        ]  # fmt: skip
        for file in sorted(found):
            yield str(file), None
        for error in closed:
            yield error.filename, f"{error.filename}: this folder cannot be read ({error.strerror})."
        if not found and not closed:
            kind = f"({' '.join(sorted(SUFFIXES))})" if pattern is None else f"whose names fit {pattern!r}"
            hint = "" if recursive else "; -r looks into the folders below"
            yield path, f"{path}: a folder without audio files {kind}{hint}."


def _files_below(path, recursive, closed):
    """Files in a folder, or also below it, links followed; errors of folders that cannot be read go into `closed`."""
    root = os.path.realpath(path)
    seen = {root}
    for folder, below, names in os.walk(path, onerror=closed.append, followlinks=True):
        yield from (Path(folder, name) for name in names)
        places = {name: os.path.join(folder, name) for name in sorted(below)} if recursive else {}
        places = {
            name: os.path.realpath(place)
            for name, place in places.items()  # what a link names below the folder is found without it
            if not (os.path.islink(place) and Path(os.path.realpath(place)).is_relative_to(root))
        }
        below[:] = [name for name, place in places.items() if place not in seen]  # nor in circles
        seen.update(places.values())


class _Files:
    """What the pipeline prepares of each file and the file's hash, or a sentence why there is nothing."""

    def __init__(self, extractor, files, curve=None, hop=None):
        self.extractor, self.files, self.windows = extractor, files, (curve, hop)

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        from ..pipeline_mer import prepare

        path, problem = self.files[index]
        if problem:
            return problem
        try:
            return {"sha256": content_hash(path), **prepare(path, self.extractor, *self.windows)}
        except (OSError, ValueError) as error:
            message = " ".join(str(error).split()) or type(error).__name__
            return message if path in message else f"{path}: {message}"
        except Exception as error:  # whatever is wrong with this file, the others are still done
            return f"{path}: {type(error).__name__}: {one_line(error)}"


def predictions(pipe, files, top_k=None, workers=0, batch=1, threshold=None, curve=None, hop=None):
    """Yield a record of each file, in order.

    Args:
        pipe (`MERPipeline`): see [`load_pipeline`].
        files (`list[tuple[str, str | None]]`): path, and a sentence if it is known that it cannot be done.
        top_k (`int`, *optional*): tags in a record; all by default.
        workers (`int`): processes that decode, cut and hear chords; 0: this one does.
        batch (`int`): segments that pass through the encoder together at least, of as many files as that takes.
        threshold (`float`, *optional*): score from which on a tag is a mood; each tag's own, or 0.5, by default.
        curve, hop (`float`, *optional*): seconds of a window of the mood curve, and from one to the next.

    Raises:
        ValueError: an argument makes no sense.
    """
    from torch.utils.data import DataLoader

    from ..pipeline_mer import check_threshold, curve_hop

    hop = curve_hop(curve, hop)
    check_threshold(threshold)
    prepared = DataLoader(
        _Files(pipe.feature_extractor, files, curve, hop), None, num_workers=workers, collate_fn=_unchanged,
        worker_init_fn=_ignore_interrupts,
    )  # fmt: skip
    group, segments = [], 0
    for (path, _), inputs in zip(files, prepared):
        group.append((path, inputs))
        segments += 0 if isinstance(inputs, str) else inputs["lengths"].shape[1]
        if segments >= batch or len(group) >= 8 * batch:
            yield from _predict_group(pipe, group, top_k, threshold)
            group, segments = [], 0
    yield from _predict_group(pipe, group, top_k, threshold)


def _unchanged(inputs):
    # Not as tensors: those pass between processes through shared memory, of which containers have little.
    return inputs


def _ignore_interrupts(worker):
    # Ctrl-C reaches every process of a terminal; this one ends when the first one does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _predict_group(pipe, group, top_k, threshold):
    import numpy as np
    import torch

    heard = [inputs for _, inputs in group if not isinstance(inputs, str)]
    if len(heard) > 1:
        values, lengths = (
            torch.from_numpy(np.concatenate([inputs[name][0] for inputs in heard])[None]).to(pipe.device)
            for name in ("input_values", "lengths")
        )
        try:
            with torch.no_grad():
                embeddings = pipe.model.encode(values, lengths)[0]
        except RuntimeError as error:
            if _worker_died(error):
                raise
            heard = []  # too much at once; each on its own
        first = 0
        for inputs in heard:
            last = first + inputs["lengths"].shape[1]
            inputs["segment_embeddings"] = embeddings[None, first:last]
            first = last
    for path, inputs in group:
        yield predict(pipe, path, inputs, top_k, threshold)


def predict(pipe, path, inputs, top_k=None, threshold=None):
    """One record: `path`, `sha256`, `error` (None or a sentence), then what the pipeline returns and the model's name.

    `inputs` is what [`prepare`] made of the file, or a sentence why there is nothing.
    """
    if isinstance(inputs, str):
        return {"path": path, "sha256": None, "error": inputs}
    inputs = dict(inputs)
    record = {"path": path, "sha256": inputs.pop("sha256"), "error": None}
    from ..pipeline_mer import as_tensors

    try:
        outputs = pipe.forward(as_tensors(inputs))
        answer = pipe.postprocess(outputs, top_k=top_k, return_valence_arousal=True, threshold=threshold)
    except Exception as error:  # whatever is wrong with this file, the others are still done
        if _worker_died(error):
            raise
        return record | {"error": f"{path}: {type(error).__name__}: {one_line(error)}"}
    if not all(map(math.isfinite, (answer["valence"], answer["arousal"]))):
        return record | {"error": f"{path}: the model's answer is no number; are its weights damaged?"}
    return {**record, **answer, "model": model_name(pipe)}


def model_name(pipe):
    """The model's name and version: `"mer-small@1a2b3c4d"`, `"FOLDER@1a2b3c4d"`, `"OWNER/NAME@COMMIT"`.

    The version of a folder, and of the embedded model, is the beginning of a digest of configuration and weights.
    """
    if not hasattr(pipe, "mer_name"):
        pipe.mer_name = _name(pipe.model.config.name_or_path)
    return pipe.mer_name


def _name(name):
    if not name:
        return name
    if os.path.isdir(name):
        kinds = ("config.json", "preprocessor_config.json", "*.safetensors")
        files = sorted(file for kind in kinds for file in Path(name).glob(kind))
        digest = hashlib.sha256(" ".join(map(content_hash, files)).encode()).hexdigest()
        return f"{'mer-small' if name == str(EMBEDDED_MODEL) else name}@{digest[:8]}"
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(name, "config.json")  # .../snapshots/COMMIT/config.json
    return f"{name}@{Path(file).parent.name}" if isinstance(file, str) else name
