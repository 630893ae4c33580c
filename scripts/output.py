"""What `mer predict` writes: a table, JSON or CSV, to a file that appears when it is complete, and that resumes."""

import csv
import glob
import hashlib
import io
import json
import os
import re
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"}
RESUMABLE = ("csv", "jsonl")  # formats of one row a record
BAR = 20


def content_hash(path):
    """SHA-256 of a file in hexadecimal digits; `None` of what is no file here, such as an `http(s)` address."""
    if not os.path.isfile(path):
        return None
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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


def _csv(output, tags, header=True):
    columns = csv_columns(tags)
    writer = csv.DictWriter(output, columns, lineterminator="\n", restval="")
    if header:
        writer.writeheader()

    def write(record):
        if record is None:
            return
        row = {"path": record["path"], "sha256": record["sha256"] or "", "error": record["error"] or ""}
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


def csv_columns(tags):
    """Columns of a CSV file: what is known of a file, then one of each tag."""
    known = ("path", "sha256", "error", "valence", "arousal", "scale_low", "scale_high", "key", "chords", "model")
    return [*known, *tags]


WRITERS = {"table": _table, "json": _json, "jsonl": _jsonl, "csv": _csv}


class RowsOutput:
    """A CSV or JSON lines file that may be written by several processes, and that a later run goes on with.

    Each process adds its rows to a part of its own (`FILE.part`, `FILE.part1`, ...) as they come; in the end they are
    put in order under the name. Whatever is cut, no whole row is lost.

    Args:
        path (`Path`): the file.
        format (`str`): one of `RESUMABLE`.
        tags (`list[str]`): the model's.
    """

    def __init__(self, path, format, tags):
        self.path, self.format, self.tags = Path(os.path.realpath(path)), format, list(tags)

    def read(self):
        """Rows of the file and of parts that were left, by path: `dict` of `dict`.

        Raises:
            ValueError: the file has other columns.
        """
        rows = {}
        for file in (self.path, *self._parts()):
            if file.is_file():
                rows |= {row["path"]: row for row in self._read(file)}
        return rows

    @staticmethod
    def still_holds(row, model):
        """Whether a row tells of the file as it is now, by the model of that name."""
        return not row["error"] and row["model"] == model and (row["sha256"] or None) == content_hash(row["path"])

    def begin(self, kept):
        """Start anew with the rows of `kept`, in place of all parts."""
        self._write_rows(kept.values(), self._part(0))
        for part in self._parts():
            if part != self._part(0):
                part.unlink()

    @contextmanager
    def open_part(self, process, quiet=False):
        """Writer of records to the part of a process, behind what stands there."""
        part = self._part(process)
        new = not part.exists()
        try:
            with open(part, "a", encoding="utf-8", errors="replace", newline="") as file:
                yield _csv(file, self.tags, header=new) if self.format == "csv" else _jsonl(file, self.tags)
        except BaseException:
            if not quiet:
                print(f"mer predict: stopped early; --resume goes on with {part}", file=sys.stderr)
            raise

    def finish(self, order):
        """Put the rows of all parts under the name, in the order of these paths; returns the rows."""
        parts = self._parts()
        rows = {row["path"]: row for part in parts for row in self._read(part)}
        rows = [rows[path] for path in order if path in rows]
        self._write_rows(rows, self.path)
        for part in parts:
            part.unlink()
        return rows

    def _part(self, process):
        return self.path.with_name(f"{self.path.name}.part{process or ''}")

    def _parts(self):
        found = self.path.parent.glob(glob.escape(self.path.name) + ".part*")
        return sorted(part for part in found if re.fullmatch(r"\d*", part.name.removeprefix(f"{self.path.name}.part")))

    def _read(self, file):
        with open(file, encoding="utf-8", errors="replace", newline="") as stream:
            text = stream.read()
        text = text[: text.rfind("\n") + 1]  # a row that was cut has no end
        strange = ValueError(f"{file}: holds something else than rows of this model; name another file.")
        if self.format == "csv":
            reader = csv.DictReader(io.StringIO(text, newline=""))
            if text and reader.fieldnames != csv_columns(self.tags):
                raise strange
            return list(reader)
        try:
            rows = [json.loads(line) for line in text.split("\n")[:-1]]
        except ValueError:
            raise strange from None
        if not all(isinstance(row, dict) and {"path", "sha256", "error"} <= row.keys() for row in rows):
            raise strange
        return rows

    def _write_rows(self, rows, path):
        temporary = path.with_name(path.name + ".tmp")
        with open(temporary, "w", encoding="utf-8", errors="replace", newline="") as file:
            if self.format == "csv":
                writer = csv.DictWriter(file, csv_columns(self.tags), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            else:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        os.replace(temporary, path)


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
