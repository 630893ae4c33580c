"""What the tests share: tiny models, deterministic seeds, no network."""

import importlib.util
import os

os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

import numpy as np
import pytest
import torch
from mer import MERConfig, MERForAudioClassification, MERMelConfig

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("MER_SHARED", ROOT.parent / "shared"))  # data that only some machines have


def load_module(path):
    """The module in a file of the repository that is not in the package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def tiny_config():
    """A MER model small enough for any test: hidden 16, 2 layers."""
    return MERConfig(
        encoder_config=MERMelConfig(
            stem_channels=(4, 8, 8), hidden_size=16, num_hidden_layers=2, intermediate_size=32, kernel_size=3
        ),
        layers=(1, 2),
        use_chord_statistics=True,
        use_tonality=True,
        trunk_size=24,
        head_size=12,
    )


@pytest.fixture
def tiny_model(tiny_config):
    """An untrained tiny model whose norms have seen data, in evaluation mode."""
    model = MERForAudioClassification(tiny_config)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(input_values=torch.randn(4, 1, 8000))
    return model.eval()
