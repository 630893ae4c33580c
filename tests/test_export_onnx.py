"""ONNX files answer what the model answers, at sizes that the export never saw."""

import importlib.util
import json
import re

import numpy as np
import pytest
import torch
from mer import MERFeatureExtractor, MERForAudioClassification
from mer.scripts import export_onnx
from mer.scripts.export_onnx import ONNXModel
from test_modeling_mer import hubert_config

RATE = 16000


@pytest.fixture(scope="module")
def extractor():
    return MERFeatureExtractor(segment_seconds=1.0)


def make_model(**values):
    torch.manual_seed(0)
    model = MERForAudioClassification(hubert_config(**values)).eval()
    torch.nn.init.normal_(model.mood_head[-1].bias)
    return model


def music(seconds, seed=0):
    """Noise that swells, with a chord: its segments differ."""
    time = np.arange(round(seconds * RATE)) / RATE
    tones = sum(np.sin(2 * np.pi * frequency * time) for frequency in (220, 277.18, 329.63))
    return (tones * time / seconds + 0.1 * np.random.default_rng(seed).standard_normal(len(time))).astype(np.float32)


def answers(model, inputs):
    with torch.no_grad():
        output = model(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    return output.logits.numpy(), output.valence_arousal.numpy()


@pytest.mark.parametrize(
    "values",
    [{}, {"layers": (4,), "use_chord_statistics": True, "use_tonality": True}, {"feat_extract_norm": "layer"}],
)
def test_the_answers_are_the_models(extractor, tmp_path, values):
    """Clips of several segments with a short last one, several clips at once, many chords and none."""
    model = make_model(**values)
    export_onnx.export_onnx(model, extractor, tmp_path)
    exported = ONNXModel(tmp_path)
    clips = [music(3.3), music(0.4, 1), music(2.0, 2)]
    silent = MERFeatureExtractor(segment_seconds=1.0, harmony_recognizer=None)
    for given, hears in ((clips, extractor), (clips[:1], extractor), (clips[1:], silent)):
        inputs = dict(hears(given, sampling_rate=RATE, return_tensors="np"))
        for ours, theirs in zip(exported(inputs), answers(model, inputs), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)
    assert inputs["chord_mask"].sum() == 0
    assert MERFeatureExtractor.from_pretrained(tmp_path).segment_seconds == 1.0


def test_a_model_without_chords_and_mode(extractor, tmp_path):
    config = hubert_config()
    config.use_chords = config.use_mode = False
    torch.manual_seed(0)
    model = MERForAudioClassification(config).eval()
    export_onnx.export_onnx(model, extractor, tmp_path)
    inputs = dict(extractor([music(1.5)], sampling_rate=RATE, return_tensors="np"))
    for ours, theirs in zip(ONNXModel(tmp_path)(inputs), answers(model, inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


def test_the_command_measures_what_it_wrote(tmp_path, capsys):
    """mer-small: float32 is exact, integers of 8 bits are smaller and a little off; the printed loss is the real one."""
    sizes = {}
    for name, options in {"float": [], "int8": ["--int8"]}.items():
        assert export_onnx.main([str(tmp_path / name), *options]) == 0
        found = re.search(r"(\S+) in a tag's probability, (\S+) in valence", capsys.readouterr().out)
        tags, rated = float(found[1]), float(found[2])
        sizes[name] = (tmp_path / name / "encoder.onnx").stat().st_size
        assert (tags < 1e-5 and rated < 1e-4) if name == "float" else (1e-5 < tags < 0.01 and 1e-4 < rated < 0.2)
    assert sizes["int8"] < 0.5 * sizes["float"]
    assert json.loads((tmp_path / "int8/config.json").read_text())["model_type"] == "mer"
    assert not list((tmp_path / "int8").glob("*.py")), "the folder runs without our code"


def test_what_cannot_be_exported_is_said(tmp_path, capsys, monkeypatch):
    assert export_onnx.main([str(tmp_path), "--model", "no/model"]) == 1
    assert capsys.readouterr().err.startswith("export_onnx: ")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    assert export_onnx.main([str(tmp_path / "out")]) == 1
    assert "onnxscript is missing; pip install 'mer[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
