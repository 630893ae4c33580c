"""Batches of one corpus each, in every strategy, for one process and several."""

from collections import Counter

import pytest
from accelerate.data_loader import BatchSamplerShard
from mer.training.samplers import STRATEGIES, CorpusBatchSampler

SIZES = {"deam": 23, "emomusic": 9, "pmemo": 4}


def sampler(strategy, **kwargs):
    return CorpusBatchSampler(SIZES, **{"batch_size": 4, **kwargs}, strategy=strategy)


def shares(strategy, num_processes, **kwargs):
    """Batches that each process gets, dealt out by accelerate itself."""
    return [
        list(BatchSamplerShard(sampler(strategy, num_processes=num_processes, **kwargs), num_processes, process))
        for process in range(num_processes)
    ]


def rows(batches):
    return [(corpus, row) for batch in batches for corpus, row, _ in batch]


@pytest.mark.parametrize("num_processes", [1, 2, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_batch_is_of_one_corpus_and_the_length_is_true(strategy, num_processes):
    found = sampler(strategy, num_processes=num_processes)
    batches = list(found)
    assert len(batches) == len(found)
    assert all(len({corpus for corpus, _, _ in batch}) == 1 and 1 <= len(batch) <= 4 for batch in batches)


def test_proportional_sees_every_row_once_in_mixed_order():
    batches = list(sampler("proportional"))
    assert sorted(rows(batches)) == [(corpus, row) for corpus in sorted(SIZES) for row in range(SIZES[corpus])]
    order = [batch[0][0] for batch in batches]
    assert Counter(order) == {"deam": 6, "emomusic": 3, "pmemo": 1}
    assert order != sorted(order)


def test_round_robin_takes_turns_until_the_shortest_is_through():
    order = [batch[0][0] for batch in sampler("round_robin", batch_size=2)]
    assert order == ["deam", "emomusic", "pmemo"] * 2


def test_all_corpora_cycles_the_shorter_ones():
    batches = list(sampler("all_corpora"))
    assert [batch[0][0] for batch in batches] == ["deam", "emomusic", "pmemo"] * 6
    found = Counter(rows(batches))
    assert all(found["deam", row] == 1 for row in range(23))
    assert all(found["pmemo", row] == 6 for row in range(4))
    passes = [batch for batch in batches if batch[0][0] == "pmemo"]
    assert len({tuple(row for _, row, _ in batch) for batch in passes}) > 1  # shuffled anew
    draws = [draw for batch in passes for _, _, draw in batch]
    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_seed_and_epoch_decide_the_order(strategy):
    first, again, other = sampler(strategy), sampler(strategy), sampler(strategy, seed=1)
    assert list(first) == list(first) == list(again)
    assert list(first) != list(other)
    first.set_epoch(1)
    assert list(first) != list(again)
    again.set_epoch(1)
    assert list(first) == list(again)


@pytest.mark.parametrize("num_processes", [2, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_processes_share_steps_of_one_corpus(strategy, num_processes):
    per_process = shares(strategy, num_processes, batch_size=2)
    assert len({len(batches) for batches in per_process}) == 1
    for step in zip(*per_process):
        assert len({len(batch) for batch in step}) == 1
        assert len({corpus for batch in step for corpus, _, _ in batch}) == 1
        together = rows(step)
        assert len(set(together)) == len(together)
    if strategy == "proportional":  # a whole epoch: disjoint, and all but less than a row for each process
        together = rows([batch for batches in per_process for batch in batches])
        assert len(set(together)) == len(together)
        left = Counter(corpus for corpus, _ in together)
        assert left == {corpus: size - size % num_processes for corpus, size in SIZES.items()}


def test_two_processes_see_what_one_with_the_doubled_batch_sees():
    sizes = {"deam": 22, "pmemo": 6}
    two = CorpusBatchSampler(sizes, 4, "all_corpora", num_processes=2)
    pairs = list(zip(*[iter(two)] * 2))
    assert [first + second for first, second in pairs] == list(CorpusBatchSampler(sizes, 8, "all_corpora"))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="proportional, round_robin, all_corpora"):
        sampler("random")
    with pytest.raises(ValueError, match=r"pmemo \(4\)"):
        sampler("proportional", num_processes=5)
    with pytest.raises(ValueError, match="no corpus"):
        CorpusBatchSampler({}, 4)
