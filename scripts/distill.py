"""Train one student on the cached features of several corpora, with a teacher for each.

    python -m mer.scripts.distill recipes/distill.yaml --features features/deam features/pmemo \
        --teachers deam=teachers/deam pmemo=teachers/pmemo --output_dir student

A corpus whose cache holds teacher columns needs no teacher. Recipes, resuming and what a run leaves: see
`train_teacher`.
"""

import sys
from dataclasses import dataclass, field

from ..training.trainer import MERTrainingArguments
from .train_teacher import HeadArguments, run, train


@dataclass
class DistillArguments(HeadArguments):
    """What to train on, what the heads read, and who teaches."""

    teachers: list[str] | None = field(
        default=None, metadata={"help": "CORPUS=FOLDER_OR_ID of each teacher; none: labels and teacher columns alone"}
    )


def distill(arguments, training):
    """Train as `arguments` (`DistillArguments`) and `training` say."""
    teachers = {}
    for teacher in arguments.teachers or ():
        corpus, separator, place = teacher.partition("=")
        if not separator or not place:
            raise ValueError(f"--teachers takes CORPUS=FOLDER_OR_ID, not {teacher!r}.")
        teachers[corpus] = place
    train(arguments, training, teachers)


def main(argv=None):
    """Run the command; returns 0, or 1 if something does not fit."""
    return run(distill, (DistillArguments, MERTrainingArguments), argv, __doc__)


if __name__ == "__main__":
    sys.exit(main())
