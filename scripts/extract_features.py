"""Compute the features of a corpus once: a cache that training and evaluation read.

    python -m mer.scripts.extract_features --corpus deam --data_dir /data/DEAM --out features/deam
    accelerate launch -m mer.scripts.extract_features --corpus folder --data_dir ~/music --scale 0-1 --out mine

A run that was cut goes on where it was; see `training/features.py`. The arguments may also stand in one YAML file.
"""

import argparse
import sys
from dataclasses import dataclass, field
from datetime import timedelta

from accelerate import Accelerator, InitProcessGroupKwargs
from datasets import concatenate_datasets
from transformers import HfArgumentParser

from ..datasets_loaders import load_mer_dataset
from ..training.features import extract_features, say_unreadable
from .predict import EMBEDDED_MODEL, load_pipeline, one_line


@dataclass
class CorpusArguments:
    """Options of how a corpus is read; see [`load_mer_dataset`]."""

    splits: str = field(
        default="leak_free", metadata={"help": "leak_free or published", "choices": ["leak_free", "published"]}
    )
    valence_arousal: str = field(
        default="repaired", metadata={"help": "repaired or as_released (DEAM)", "choices": ["repaired", "as_released"]}
    )
    split_number: int | None = field(default=None, metadata={"help": "mtg_jamendo: which official split (default 0)"})
    scale: str | None = field(default=None, metadata={"help": "folder: scale of valence and arousal, such as 0-1"})
    csv: str | None = field(default=None, metadata={"help": "folder: the annotation file (default annotations.csv)"})
    shard_size: int = field(default=64, metadata={"help": "tracks a shard; a killed run loses one shard at most"})
    num_workers: int = field(default=0, metadata={"help": "processes that decode and hear chords, beside each model"})


@dataclass
class ExtractArguments:
    """What to extract."""

    corpus: str = field(metadata={"help": "mtg_jamendo, deam, pmemo, emomusic or folder"})
    data_dir: str = field(metadata={"help": "the corpus's folder"})
    out: str = field(metadata={"help": "folder of the cache"})
    model: str = field(
        default=str(EMBEDDED_MODEL), metadata={"help": "folder or Hub id of a MER model; default: mer-small"}
    )
    reuse: str | None = field(
        default=None,
        metadata={"help": "another cache of this model: its tracks are taken over, with the labels and splits of now"},
    )


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults behind the help of each argument, and the description as it was written."""


def parse_arguments(classes, argv=None, description=None):
    """Fill dataclasses from the command line, or from the one YAML file that it names."""
    argv = sys.argv[1:] if argv is None else [*argv]
    parser = HfArgumentParser(classes, description=description, formatter_class=_HelpFormatter)
    if len(argv) == 1 and argv[0].endswith((".yaml", ".yml")):
        return parser.parse_yaml_file(argv[0])
    return parser.parse_args_into_dataclasses(argv)


def make_accelerator():
    """An `Accelerator` whose processes wait for each other as long as the slowest one takes."""
    return Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=7))])


def load_model(place):
    """The pipeline of a model; as [`load_pipeline`], but the error names the model."""
    try:
        return load_pipeline(place)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load the model {place}: {one_line(error)}") from error


def load_rows(corpus, data_dir, options, split=None):
    """The rows of a corpus, of all its splits or of one, with the column `split`."""
    given = {name: value for name in ("split_number", "scale", "csv") if (value := getattr(options, name)) is not None}
    parts = load_mer_dataset(corpus, data_dir, splits=options.splits, valence_arousal=options.valence_arousal, **given)
    if split is not None and split not in parts:
        raise ValueError(f"{corpus} has no tracks in the split {split!r}; it has {', '.join(parts)}.")
    return concatenate_datasets(
        [rows.add_column("split", [name] * len(rows)) for name, rows in parts.items() if split in (None, name)]
    )


def main(argv=None):
    """Run the command; returns 0, or 1 if there is no feature to show."""
    args, options = parse_arguments((ExtractArguments, CorpusArguments), argv, __doc__)
    accelerator = make_accelerator()
    try:
        with accelerator.main_process_first():  # one process reads the annotations, the others its cache
            rows = load_rows(args.corpus, args.data_dir, options)
        pipe = load_model(args.model)
        report = extract_features(
            rows,
            pipe.model,
            pipe.feature_extractor,
            args.out,
            options.shard_size,
            accelerator,
            options.num_workers,
            args.reuse,
        )
    except (OSError, ValueError, ImportError) as error:
        print(f"extract_features: {one_line(error)}", file=sys.stderr)
        return 1
    accelerator.print(f"{report.tracks} tracks are in {args.out}{say_unreadable(args.out)}")
    accelerator.end_training()
    return 0 if report.tracks else 1


if __name__ == "__main__":
    sys.exit(main())
