"""How long a training epoch over cached features takes, and how much of it is the input.

    python benchmarks/epoch.py [--tracks 18000] [--repeats 3]

A made-up cache in the format of `extract_features`: every track with 4 segments of 1536 (two layers of MERT), 90
chords, 56 tags. Timed, in this order: the copy that `datasets` makes at the first opening; one epoch of the training
loader alone; one epoch of `MERTrainer` with the options of recipes/teacher.yaml, without evaluation. Medians and ranges.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from mer import MERConfig, MERForAudioClassification
from mer.harmony_mer import NO_CHORDS, NO_TONALITY
from mer.training.features import COMPUTED, FINGERPRINT_FILE, LABELS, load_features
from mer.training.trainer import MERTrainer, MERTrainingArguments
from tqdm import tqdm
from transformers import HubertConfig

SEGMENTS, WIDTH, CHORDS, SHARD = 4, 1536, 90, 64


def write_cache(folder, tracks):
    """A cache of so many tracks, each shard with other numbers."""
    random = np.random.default_rng(0)
    schema = datasets.Features({"row_index": datasets.Value("int64")} | LABELS | COMPUTED).arrow_schema
    for shard in tqdm(range(-(-tracks // SHARD)), desc="cache", unit="shard"):
        rows = range(tracks)[shard * SHARD : (shard + 1) * SHARD]
        shape = len(rows), SEGMENTS, WIDTH
        columns = {
            "row_index": list(rows),
            "track_id": [str(row) for row in rows],
            "corpus": ["made-up"] * len(rows),
            "mood_labels": (random.random((len(rows), 56)) < 0.05).astype(np.float32).tolist(),
            "split": ["train"] * len(rows),
            "segment_embeddings": random.standard_normal(shape, dtype=np.float32).tolist(),
            "lengths": [[720_000] * SEGMENTS] * len(rows),
            "chord_root_ids": random.integers(0, 13, (len(rows), CHORDS)).tolist(),
            "chord_quality_ids": random.integers(0, 14, (len(rows), CHORDS)).tolist(),
            "chord_statistics": random.random((len(rows), len(NO_CHORDS))).tolist(),
            "mode_id": random.integers(0, 2, len(rows)).tolist(),
            "tonality": random.random((len(rows), len(NO_TONALITY))).tolist(),
        }
        arrays = [pa.array(columns.get(field.name, [None] * len(rows)), field.type) for field in schema]
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), folder / f"shard-{shard:05}.parquet")
    fingerprint = {"num_rows": tracks, "shard_size": SHARD}
    (folder / FINGERPRINT_FILE).write_text(json.dumps(fingerprint), encoding="utf-8")


def seconds(work):
    """How long `work()` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(argv=None):
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=int, default=18_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        datasets.config.HF_DATASETS_CACHE = folder / "datasets"
        write_cache(folder, args.tracks)
        first = seconds(lambda: load_features(folder))
        rows = load_features(folder)
        # As many modules as MERT has up to layer 7; how wide they are does not matter, they are not run.
        encoder = HubertConfig(hidden_size=WIDTH // 2, num_hidden_layers=7, intermediate_size=8)
        times = {"input": [], "epoch": []}
        for repeat in range(args.repeats):
            options = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "use_cpu": True}
            arguments = MERTrainingArguments(
                str(folder / "run"), num_train_epochs=1, dataloader_pin_memory=False, seed=repeat, **options
            )
            model = MERForAudioClassification(MERConfig(encoder_config=encoder, layers=(6, 7)))
            trainer = MERTrainer(model, arguments, {"made-up": rows})
            times["input"].append(seconds(lambda: [None for _ in trainer.get_train_dataloader()]))
            times["epoch"].append(seconds(trainer.train))
    print(f"{args.tracks} tracks of {SEGMENTS} x {WIDTH}, batches of {arguments.per_device_train_batch_size}, ", end="")
    print(f"{torch.get_num_threads()} threads, load average before {os.getloadavg()[2]:.2f}")
    print(f"first opening: {first:.1f} s")
    for name, found in times.items():
        print(f"{name}: {statistics.median(found):.1f} s ({min(found):.1f}-{max(found):.1f})")
    print(f"input: {statistics.median(times['input']) / statistics.median(times['epoch']):.0%} of the epoch")


if __name__ == "__main__":
    main()
