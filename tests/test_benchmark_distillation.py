"""The distillation benchmark on few tracks and epochs: its worlds, and that its table says what was measured."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED, load_module
from mer.training.trainer import labelled_tasks, taught_heads

benchmark = load_module("benchmarks/distillation.py")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def head(parts, count):
    return tuple(part.select(range(min(count, len(part)))) for part in parts)


def test_methods_on_the_same_small_world():
    splits, extra, tags, width = benchmark.synthetic(0)
    assert {corpus: labelled_tasks(parts[0]) for corpus, parts in splits.items()} == {
        "tags": ("mood",), "va": ("valence_arousal",), "small_va": ("valence_arousal",), "quadrants": ("quadrant",),
    }  # fmt: skip
    small = {corpus: head(parts, 48) for corpus, parts in splits.items()}

    class Bar:
        done = 0

        def set_description(self, text):
            pass

        def update(self):
            self.done += 1

    bar = Bar()
    results = benchmark.run_seed(small, extra, tags, width, 0, bar, epochs=1)
    assert bar.done == 7  # four teachers, three students
    assert list(results) == ["single-task", "multi-task", "paper KD", "our KD"]
    scores = {name: benchmark.columns_of(found)["score"] for name, found in results.items()}
    assert len(set(scores.values())) == 4 and np.isfinite(list(scores.values())).all()


def test_the_same_seed_is_the_same_world():
    one, same, other = (benchmark.synthetic(seed)[0]["quadrants"][0] for seed in (0, 0, 1))
    assert one["segment_embeddings"] == same["segment_embeddings"] != other["segment_embeddings"]


def test_differences_are_paired_by_seed():
    def seed(level, gain):
        found = {"single-task": level, "multi-task": level + gain, "paper KD": level, "our KD": level + 2 * gain}
        return {name: {"4q": {"quadrant_accuracy": 0.5, "quadrant_f1": value}} for name, value in found.items()}

    lines = benchmark.report([seed(0.2, 0.1), seed(0.6, 0.1)])
    # Seeds differ much, methods by the same in each: an error of nothing.
    assert "| multi-task | 0.500 ± 0.000 | 0.500 ± 0.283 | 0.500 ± 0.283 |" in lines
    assert "| our KD | +0.2000 ± 0.0000 | +0.1000 ± 0.0000 | +0.2000 ± 0.0000 |" in lines


@pytest.mark.skipif(not Path(SHARED, "data", "panda4q").is_dir(), reason="the 4Q clips are not here")
def test_no_artist_is_trained_and_tested_on(monkeypatch):
    seen = []
    cut = benchmark.GroupShuffleSplit.split

    def split(self, rows, groups):
        for parts in cut(self, rows, groups=groups):
            seen.append([set(groups[part]) for part in parts])
            yield parts

    monkeypatch.setattr(benchmark.GroupShuffleSplit, "split", split)
    splits, extra, tags, width = benchmark.real(SHARED / "data", 0)
    assert len(seen) == 4 and all(not rest & held for rest, held in seen)
    assert not set(tags) - set(benchmark.MOOD_TAGS) and width == 200
    assert {corpus: labelled_tasks(parts[0]) for corpus, parts in splits.items()} == {
        "quadrants": ("quadrant",), "tags": ("mood",),
    }  # fmt: skip
    test = [parts[2]["segment_embeddings"] for parts in splits.values()]
    assert test[0] == test[1]  # both kinds of label of the same clips
    assert taught_heads(extra["game_music"], live=False) == {"mood", "valence_arousal"}
    assert labelled_tasks(extra["game_music"]) == ()
