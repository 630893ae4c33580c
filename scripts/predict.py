"""``mer predict``: mood tags, valence, arousal, key and chords of files and folders."""

import ctypes
import os
import signal
import sys
from pathlib import Path

from tqdm import tqdm

from .output import RESUMABLE, SUFFIXES, WRITERS, RowsOutput, check_output, content_hash, open_output

EXAMPLES = """examples:
  mer predict song.mp3                          a readable answer
  mer predict -r Music -f csv -o moods.csv      a whole library as a table, one column a tag
  mer predict *.flac -f jsonl > moods.jsonl     one JSON record a line
  mer predict -r Music -f csv -o moods.csv --workers 4 --resume
                                                a large one: goes on where it was cut, skips what is unchanged
  accelerate launch --num_processes 2 -m mer.scripts.cli predict -r Music -f csv -o moods.csv
                                                on several GPUs

Valence and arousal are on a scale from 1 to 9; tag scores are probabilities from 0 to 1.
Exit codes: 0 all done, 1 some file failed (its row says why), 2 wrong usage."""

EMBEDDED_MODEL = Path(__file__).resolve().parent.parent  # mer-small lies at the package's root


def add_arguments(parser):
    """Declare the arguments of ``mer predict``."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="audio files, folders or http(s) addresses")
    parser.add_argument("-r", "--recursive", action="store_true", help="folders with all that lies below them")
    parser.add_argument("-f", "--format", choices=("table", "json", "jsonl", "csv"), default="table")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to FILE, which appears when complete")
    parser.add_argument("--model", default=EMBEDDED_MODEL, metavar="DIR_OR_ID", help="default: the embedded mer-small")
    parser.add_argument("--top-k", type=int, metavar="N", help="tags shown (default: 5 in a table, else all)")
    parser.add_argument(
        "--resume", action="store_true",
        help="with -o and csv or jsonl: files that FILE or its .part holds already, unchanged, are not done again",
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
    problem = None
    if args.top_k is not None and args.top_k < 1:
        problem = "--top-k must be 1 or more"
    elif args.workers < 0 or args.batch < 1:
        problem = "--workers must be 0 or more, and --batch 1 or more"
    elif by_row and (args.output is None or args.format not in RESUMABLE):
        problem = f"{'--resume' if args.resume else 'several processes'} need -o FILE and -f {' or '.join(RESUMABLE)}"
    elif args.output is not None:
        problem = check_output(args.output)
    if problem:
        print(f"mer predict: {problem}", file=sys.stderr)
        return 2
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name or a bar that the terminal cannot show is no reason to stop
            stream.reconfigure(errors="replace")
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
    if args.top_k is None and args.format == "table":
        args.top_k = 5
    files = list(find_files(args.paths, args.recursive))
    tags = list(pipe.model.config.id2label.values())
    try:
        if by_row:
            done, failed = _predict_rows(pipe, files, args, RowsOutput(args.output, args.format, tags), state)
        else:
            with open_output(args.output, args.quiet) as output:
                done, failed = _predict_all(pipe, files, args, WRITERS[args.format](output, tags))
    except Stopped:
        return 1
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        print(f"mer predict: cannot write the output: {one_line(error)}", file=sys.stderr)
        return 1
    if not args.quiet and len(files) > 1:
        print(f"{done} done, {failed} failed", file=sys.stderr)
    return 1 if failed else 0


def _predict_all(pipe, files, args, write, known=0):
    """Write a record of each file; returns how many were done and how many failed."""
    done = failed = 0
    records = predictions(pipe, files, args.top_k, args.workers, args.batch)
    hidden = args.quiet or known + len(files) < 2
    bar = tqdm(
        records, "mer predict", known + len(files), initial=known, unit="file", disable=hidden, file=sys.stderr
    )  # fmt: skip
    try:
        for record in stoppable(bar):
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
    return done, failed


def _predict_rows(pipe, files, args, output, state):
    """As [`_predict_all`], of files whose rows are not there yet, dealt out to the processes."""
    process, processes = (0, 1) if state is None else (state.process_index, state.num_processes)
    kept = {}
    if args.resume:
        known = output.read()
        kept = {
            path: known[path]
            for path, problem in files
            if problem is None and path in known and output.still_holds(known[path], model_name(pipe))
        }
    if state is not None:
        state.wait_for_everyone()  # all have read
    if process == 0:
        output.begin(kept)
    if state is not None:
        state.wait_for_everyone()
    todo = list(dict.fromkeys(item for item in files if item[0] not in kept))[process::processes]
    with output.open_part(process, args.quiet) as write:
        done, failed = _predict_all(pipe, todo, args, write, len(kept))
    if state is not None:
        state.wait_for_everyone()
    if process == 0:
        rows = output.finish([path for path, _ in files])
        failed = sum(bool(row["error"]) for row in rows)
        done = len(rows) - failed
    return done, failed


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


class _Files:
    """What the pipeline prepares of each file and the file's hash, or a sentence why there is nothing."""

    def __init__(self, extractor, files):
        self.extractor, self.files = extractor, files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        from ..pipeline_mer import prepare

        path, problem = self.files[index]
        if problem:
            return problem
        try:
            return {"sha256": content_hash(path), **prepare(path, self.extractor)}
        except (OSError, ValueError) as error:
            message = " ".join(str(error).split()) or type(error).__name__
            return message if path in message else f"{path}: {message}"
        except Exception as error:  # whatever is wrong with this file, the others are still done
            return f"{path}: {type(error).__name__}: {one_line(error)}"


def predictions(pipe, files, top_k=None, workers=0, batch=1):
    """Yield a record of each file, in order.

    Args:
        pipe (`MERPipeline`): see [`load_pipeline`].
        files (`list[tuple[str, str | None]]`): path, and a sentence if it is known that it cannot be done.
        top_k (`int`, *optional*): tags in a record; all by default.
        workers (`int`): processes that decode, cut and hear chords; 0: this one does.
        batch (`int`): segments that pass through the encoder together at least, of as many files as that takes.
    """
    from torch.utils.data import DataLoader

    prepared = DataLoader(
        _Files(pipe.feature_extractor, files), None, num_workers=workers, collate_fn=_unchanged,
        worker_init_fn=_ignore_interrupts,
    )  # fmt: skip
    group, segments = [], 0
    for (path, _), inputs in zip(files, prepared):
        group.append((path, inputs))
        segments += 0 if isinstance(inputs, str) else inputs["lengths"].shape[1]
        if segments >= batch or len(group) >= 8 * batch:
            yield from _predict_group(pipe, group, top_k)
            group, segments = [], 0
    yield from _predict_group(pipe, group, top_k)


def _unchanged(inputs):
    # Not as tensors: those pass between processes through shared memory, of which containers have little.
    return inputs


def _ignore_interrupts(worker):
    # Ctrl-C reaches every process of a terminal; this one ends when the first one does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _predict_group(pipe, group, top_k):
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
        except RuntimeError:
            heard = []  # too much at once; each on its own
        first = 0
        for inputs in heard:
            last = first + inputs["lengths"].shape[1]
            inputs["segment_embeddings"] = embeddings[None, first:last]
            first = last
    for path, inputs in group:
        yield predict(pipe, path, inputs, top_k)


def predict(pipe, path, inputs, top_k=None):
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
        answer = pipe.postprocess(outputs, top_k=top_k, return_valence_arousal=True)
    except Exception as error:  # whatever is wrong with this file, the others are still done
        return record | {"error": f"{path}: {type(error).__name__}: {one_line(error)}"}
    return {**record, **answer, "model": model_name(pipe)}


def model_name(pipe):
    """The folder or Hub id that a model came from, with the commit of a Hub id; `mer-small` for the embedded one."""
    config = pipe.model.config
    if config.name_or_path == str(EMBEDDED_MODEL):
        return "mer-small"
    commit = getattr(config, "_commit_hash", None)
    return f"{config.name_or_path}@{commit}" if commit else config.name_or_path
