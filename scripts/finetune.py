"""Train a model further on cached features, such as those of one's own music: its heads, or its encoder too.

    python -m mer.scripts.extract_features --corpus folder --data_dir ~/music --scale 0-1 --out features/mine
    python -m mer.scripts.finetune recipes/finetune.yaml --features features/mine --output_dir my-model
    python -c "from transformers import pipeline; print(pipeline('audio-classification', 'my-model', \
        trust_remote_code=True)('song.mp3'))"

Heads that the corpus has no labels for move with the trunk that all share: with valence and arousal alone, tags get
worse. With `recipes/finetune_encoder.yaml` (`--encoder_learning_rate`) the encoder is trained too, on the audio that
the cache's rows name; chords and key still come from the cache. Recipes, resuming and what a run leaves: see
`train_teacher`.
"""

import sys

from ..training.trainer import MERTrainingArguments
from .train_teacher import DataArguments, run, train


def main(argv=None):
    """Run the command; returns 0, or 1 if something does not fit."""

    return run(train, (DataArguments, MERTrainingArguments), argv, __doc__)


if __name__ == "__main__":
    sys.exit(main())
