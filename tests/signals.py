"""Signals that the tests are made of."""

import numpy as np


def tone(seconds, rate, frequency=440.0, seed=0):
    """A tone with some noise, float32 (n,)."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (0.3 * np.sin(2 * np.pi * frequency * time) + 0.05 * noise).astype(np.float32)
