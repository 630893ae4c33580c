"""The cross-corpus matrix: models, each trained on one corpus, tested on all, with bootstrap confidence intervals.

    python -m mer.scripts.evaluate_mer --models deam=runs/deam all=runs/all --features features/deam features/pmemo
    python -m mer.scripts.evaluate_mer --models . --corpora folder=~/music --scale 0-1 --work work --split all

Models and caches are `NAME=FOLDER`, or a folder that lends its name. Valence and arousal are on 1-9 and clipped to the
model's scale, tags are probabilities: what the pipeline serves. Intervals are percentiles over resampled tracks. The
arguments may also stand in one YAML file.
"""

import hashlib
import json
import math
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..datasets_loaders import rescale
from ..training.features import (
    FeatureCollator,
    check_features,
    extract_features,
    load_features,
    model_fingerprint,
    read_unreadable,
    say_unreadable,
)
from ..training.metrics import bootstrap_intervals, score_predictions
from .extract_features import CorpusArguments, load_model, load_rows, make_accelerator, parse_arguments
from .output import open_output
from .predict import one_line

BATCH_SIZE = 64
TABLES = {
    "pr_auc": "PR-AUC, macro over tags",
    "roc_auc": "ROC-AUC, macro over tags",
    "ece": "expected calibration error, mean over tags",
    "valence_r2": "R2 of valence",
    "arousal_r2": "R2 of arousal",
    "valence_rmse": "RMSE of valence, points of 1-9",
    "arousal_rmse": "RMSE of arousal, points of 1-9",
    "valence_pearson": "Pearson correlation of valence",
    "arousal_pearson": "Pearson correlation of arousal",
    "valence_ccc": "concordance (CCC) of valence",
    "arousal_ccc": "concordance (CCC) of arousal",
    "quadrant_accuracy": "quadrant accuracy",
    "quadrant_f1": "quadrant F1, macro",
}


@dataclass
class EvaluateArguments:
    """What to compare."""

    models: list[str] = field(metadata={"help": "MER models: [NAME=]FOLDER or Hub id"})
    features: list[str] | None = field(default=None, metadata={"help": "feature caches: [NAME=]FOLDER"})
    corpora: list[str] | None = field(default=None, metadata={"help": "corpora to extract features of: CORPUS=FOLDER"})
    work: str | None = field(default=None, metadata={"help": "folder for the caches of --corpora"})
    split: str = field(default="test", metadata={"help": "split to test on, or all"})
    resamples: int = field(default=1000, metadata={"help": "bootstrap resamples of each cell"})
    confidence: float = field(default=0.95, metadata={"help": "of the intervals"})
    json: str | None = field(default=None, metadata={"help": "also write everything to this JSON file"})

    def __post_init__(self):
        if not self.features and not self.corpora:
            raise ValueError("give feature caches (--features) or corpora (--corpora).")
        if self.corpora and not self.work:
            raise ValueError("--corpora needs --work, a folder for the features.")
        if self.resamples < 1 or not 0 < self.confidence < 1:
            raise ValueError("--resamples must be 1 or more, and --confidence between 0 and 1.")


def split_name(text):
    """`NAME=PLACE` -> (NAME, PLACE); without a name, that of the folder."""
    name, equals, place = text.partition("=")
    place = os.path.expanduser(place if equals else text)
    return (name if equals else Path(place).resolve().name), place


def named(texts):
    """`[NAME=]PLACE` of each text as a dict; a name must not occur twice."""
    pairs = [split_name(text) for text in texts or ()]
    for name, _ in pairs:
        if [other for other, _ in pairs].count(name) > 1:
            raise ValueError(f"{name!r} occurs twice; tell them apart as NAME=FOLDER.")
    return dict(pairs)


@torch.no_grad()
def predict_features(model, rows):
    """Predictions and labels of rows of a feature cache, in their order.

    Returns:
        `tuple` of arrays as [`score_predictions`] takes them: probabilities `(n, tags)`, [valence, arousal] `(n, 2)`
        on 1-9, tag labels, valence and arousal labels, quadrant labels.
    """
    low, high = model.config.valence_arousal_range
    collate = FeatureCollator(num_labels=model.config.num_labels)
    inputs = (
        "segment_embeddings", "lengths", "segment_mask", "chord_root_ids", "chord_quality_ids", "chord_mask",
        "chord_statistics", "mode_ids", "tonality",
    )  # fmt: skip
    parts = []
    for batch in torch.utils.data.DataLoader(rows, BATCH_SIZE, collate_fn=collate):
        output = model(**{name: batch[name].to(model.device) for name in inputs})
        valence_arousal = rescale(output.valence_arousal.float().clamp(low, high), (low, high))
        answers = output.logits.float().sigmoid(), valence_arousal
        labels = batch["labels"], batch["valence_arousal_labels"], batch["quadrant_labels"]
        parts.append([tensor.cpu().numpy() for tensor in (*answers, *labels)])
    return tuple(np.concatenate(columns) for columns in zip(*parts))


def evaluate(model, rows, resamples=1000, confidence=0.95):
    """All metrics of a model on rows of a feature cache: `{name: {"value", "low", "high"}}`.

    `low` and `high` are the ends of the bootstrap interval over tracks.
    """
    arrays = predict_features(model, rows)
    values = score_predictions(*arrays)
    intervals = bootstrap_intervals(score_predictions, *arrays, resamples=resamples, confidence=confidence)
    return {
        name: {"value": value, "low": intervals[name][0], "high": intervals[name][1]} for name, value in values.items()
    }


def of_split(rows, split, name):
    """The rows of a split, or all."""
    if split == "all":
        return rows
    splits = rows["split"][:]
    chosen = [index for index, value in enumerate(splits) if value == split]
    if not chosen:
        there = ", ".join(sorted({str(value) for value in splits}))
        raise ValueError(f"{name} has no tracks in the split {split!r}, only in {there}; see --split.")
    return rows.select(chosen)


def format_matrix(cells, metric):
    """One metric of all cells as lines of text: models down, corpora across; "-" where a corpus lacks the labels."""
    corpora = list(dict.fromkeys(cell["corpus"] for cell in cells if metric in cell["metrics"]))
    models = list(dict.fromkeys(cell["model"] for cell in cells))
    texts = {}
    for cell in cells:
        if metric in cell["metrics"]:
            found = cell["metrics"][metric]
            texts[cell["model"], cell["corpus"]] = "{value:.3f} [{low:.3f}, {high:.3f}]".format(**found)
    rows = [["", *corpora], *([model, *(texts.get((model, corpus), "-") for corpus in corpora)] for model in models)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]


def main(argv=None):
    """Run the command; returns 0, or 1 if something did not fit."""
    try:
        args, options = parse_arguments((EvaluateArguments, CorpusArguments), argv, __doc__)
        accelerator = make_accelerator()
        cells = run(args, options, accelerator)
    except (OSError, ValueError, ImportError) as error:
        print(f"evaluate_mer: {one_line(error)}", file=sys.stderr)
        return 1
    if accelerator.is_main_process:
        print(
            f"split {args.split!r}; rows: models, columns: corpora; {args.confidence:.0%} intervals from "
            f"{args.resamples} resamples of the tracks"
        )
        for corpus, cell in {cell["corpus"]: cell for cell in cells}.items():
            print(f"  {corpus}: {cell['tracks']} tracks{say_unreadable(cell['features'])}")
        for metric, title in TABLES.items():
            if any(metric in cell["metrics"] for cell in cells):
                print("", title, *format_matrix(cells, metric), sep="\n")
        if args.json:
            settings = {name: getattr(args, name) for name in ("split", "resamples", "confidence")}
            with open_output(Path(args.json), quiet=True) as file:
                json.dump(_without_nan(settings | {"cells": cells}), file, indent=2)
    accelerator.end_training()
    return 0


def run(args, options, accelerator):
    """Cells of the matrix for each model and corpus, none but in the main process.

    `{"model", "corpus", "features", "tracks", "unreadable", "metrics"}`; the tracks that could not be used are those of
    all splits in the cache.
    """
    named([*(args.corpora or ()), *(args.features or ())])
    pipes = {name: load_model(place) for name, place in named(args.models).items()}
    split = None if args.split == "all" else args.split
    tables = {}
    for corpus, data_dir in named(args.corpora).items():
        with accelerator.main_process_first():
            tables[corpus] = load_rows(corpus, data_dir, options, split)
    work = []
    for model, pipe in pipes.items():
        fingerprint = json.dumps(model_fingerprint(pipe.model, pipe.feature_extractor), sort_keys=True)
        for corpus, rows in tables.items():
            digest = hashlib.sha256(fingerprint.encode()).hexdigest()[:8]
            folder = Path(args.work, f"{corpus}-{args.split}-{digest}")
            extract_features(
                rows, pipe.model, pipe.feature_extractor, folder, options.shard_size, accelerator, options.num_workers
            )
            work.append((model, corpus, folder))
        for corpus, folder in named(args.features).items():
            check_features(folder, pipe.model, pipe.feature_extractor)
            work.append((model, corpus, folder))
    if not accelerator.is_main_process:
        return []
    cells = []
    for model, corpus, folder in tqdm(work, desc="evaluate", unit="cell"):
        rows = of_split(load_features(folder), args.split, corpus)
        network = pipes[model].model.to(accelerator.device).eval()
        metrics = evaluate(network, rows, args.resamples, args.confidence)
        counts = {"tracks": len(rows), "unreadable": len(read_unreadable(folder))}
        cells.append({"model": model, "corpus": corpus, "features": str(folder), **counts, "metrics": metrics})
    return cells


def _without_nan(value):
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
