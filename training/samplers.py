"""Batches for training on several corpora: every batch is of one corpus."""

import itertools

import numpy as np

STRATEGIES = ("proportional", "round_robin", "all_corpora")


class CorpusBatchSampler:
    """Batches of keys `(corpus, row, draw)`, each batch of one corpus; `draw` is a seed for what augments the row.

    An epoch, by `strategy`:

    - `"proportional"`: every batch of every corpus once, in random order.
    - `"round_robin"`: one batch of each corpus in turn, until the first corpus is through.
    - `"all_corpora"`: one batch of each corpus in turn, until all are through; the shorter ones begin again, shuffled
      anew (as published).

    For N processes, N batches in a row are the equal shares of one batch of `N * batch_size` rows: process i takes the
    batches i, i + N, ..., which is how `accelerate` deals them out. So all processes work on the same corpus at every
    step, with different rows, as many each; and N processes see what one with N times the batch size sees. The last
    batch of a corpus may be smaller; fewer than N rows are then left out, different ones every epoch.

    Args:
        sizes (`dict[str, int]`): rows of each corpus.
        batch_size (`int`): rows of a batch, in each process.
        strategy (`str`, *optional*, defaults to `"proportional"`): one of [`STRATEGIES`].
        num_processes (`int`, *optional*, defaults to 1): N.
        seed (`int`, *optional*, defaults to 0): with the epoch decides the order, the same on every machine.

    Raises:
        ValueError: an unknown strategy, no corpus, or a corpus with fewer rows than processes.
    """

    def __init__(self, sizes, batch_size, strategy="proportional", num_processes=1, seed=0):
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, not {strategy!r}.")
        small = [f"{corpus} ({size})" for corpus, size in sizes.items() if size < num_processes]
        if small or not sizes:
            raise ValueError(
                f"Each corpus needs at least one row for each of {num_processes} processes; too small: "
                f"{', '.join(small) or 'no corpus is given'}."
            )
        self.sizes = dict(sizes)
        # Not named batch_size: with that, accelerate would fill up smaller batches from other corpora.
        self.rows_per_step = batch_size * num_processes
        self.strategy = strategy
        self.num_processes = num_processes
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch):
        """Choose the epoch of the next iteration, counted from 0."""
        self.epoch = epoch

    def _steps(self, corpus):
        return -(-(self.sizes[corpus] // self.num_processes * self.num_processes) // self.rows_per_step)

    def __len__(self):
        steps = [self._steps(corpus) for corpus in self.sizes]
        if self.strategy == "proportional":
            return sum(steps) * self.num_processes
        rounds = min(steps) if self.strategy == "round_robin" else max(steps)
        return rounds * len(steps) * self.num_processes

    def __iter__(self):
        corpora = list(self.sizes)
        if self.strategy == "proportional":
            order = np.repeat(corpora, [self._steps(corpus) for corpus in corpora])
            order = np.random.default_rng((self.seed, self.epoch)).permutation(order).tolist()
        else:
            order = corpora * (len(self) // self.num_processes // len(corpora))
        batches = {corpus: self._batches(corpus) for corpus in corpora}
        for corpus in order:
            batch = next(batches[corpus])
            share = len(batch) // self.num_processes
            for process in range(self.num_processes):
                yield batch[process * share : (process + 1) * share]

    def _batches(self, corpus):
        # Batches of all processes together, pass after pass through the corpus, without end.
        size = self.sizes[corpus]
        usable = size - size % self.num_processes
        for number in itertools.count():
            random = np.random.default_rng((self.seed, self.epoch, list(self.sizes).index(corpus), number))
            rows = random.permutation(size).tolist()
            draws = random.integers(2**63, size=size).tolist()
            keys = [(corpus, row, draw) for row, draw in zip(rows, draws)]
            for start in range(0, usable, self.rows_per_step):
                yield keys[start : min(start + self.rows_per_step, usable)]


__all__ = ["STRATEGIES", "CorpusBatchSampler"]
