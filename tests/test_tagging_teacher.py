"""The tagging teacher: reading a checkpoint of TensorFlow, and the network against an independent computation."""

import zipfile

import numpy as np
import pytest
import soundfile
import torch
from mer.scripts import tagging_teacher
from scipy.signal import correlate2d
from signals import tone


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def block(entries):
    """A block of a LevelDB table, keys with their prefixes shared."""
    out, before = b"", b""
    for key, value in entries:
        shared = 0
        while shared < min(len(key), len(before)) and key[shared] == before[shared]:
            shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return out + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")


def checkpoint(variables):
    """(index, data) of a checkpoint in format V2, in several blocks, with a variable of integers among them."""
    data, entries = b"", [(b"", b"\x08\x01")]
    for name, value in sorted(variables.items()):
        shape = b"".join(b"\x12" + varint(len(d)) + d for d in (b"\x08" + varint(size) for size in value.shape))
        kind = b"\x08\x01" if value.dtype == np.float32 else b"\x08\x03"
        place = (b"\x20" + varint(len(data)) if data else b"") + b"\x28" + varint(value.nbytes) + b"\x35" + bytes(4)
        entries.append((name.encode(), kind + b"\x12" + varint(len(shape)) + shape + place))
        data += value.tobytes()
    index, handles = b"", []
    for first in range(0, len(entries), 7):
        written = block(entries[first : first + 7])
        handles.append((entries[min(first + 6, len(entries) - 1)][0], varint(len(index)) + varint(len(written))))
        index += written + bytes(5)
    top = block(handles)
    footer = varint(0) + varint(8) + varint(len(index)) + varint(len(top))
    return index + top + bytes(5) + footer + bytes(48 - len(footer)), data


@pytest.fixture
def variables():
    """Those of a network with two filters a layer."""
    random = np.random.default_rng(0)
    found = {"model/steps": np.array([7], np.int32), "beta1_power": np.array(0.9, np.float32)}
    for place, channels in enumerate([1, 2, 2, 2, 2, 2]):
        name = "model/batch_normalization" + (f"_{place}" if place else "")
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            found[f"{name}/{part}"] = random.uniform(0.5, 1.5, channels).astype(np.float32)
        if place:
            inputs = 1 if place == 1 else 2
            found[f"model/{place}CNN/kernel"] = random.standard_normal((3, 3, inputs, 2)).astype(np.float32)
            found[f"model/{place}CNN/bias"] = random.standard_normal(2).astype(np.float32)
    found["model/dense/kernel"] = random.standard_normal((4, 50)).astype(np.float32)
    found["model/dense/bias"] = random.standard_normal(50).astype(np.float32)
    return found


def test_a_checkpoint_is_read(variables):
    found = tagging_teacher.read_checkpoint(*checkpoint(variables))
    assert found.keys() == {name for name, value in variables.items() if value.dtype == np.float32}
    assert all(np.array_equal(found[name], variables[name]) for name in found)


def compute(variables, patch):
    """The network in numpy, of one patch (187, 96)."""

    def norm(maps, place):
        name = "model/batch_normalization" + (f"_{place}" if place else "")
        gamma, beta, mean, variance = (
            variables[f"{name}/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return [(m - mean[c]) / np.sqrt(variance[c] + 1e-3) * gamma[c] + beta[c] for c, m in enumerate(maps)]

    maps = norm([patch], 0)
    for place, (size, stride) in enumerate([((4, 1), 2), ((2, 2), 2), ((2, 2), 2), ((2, 2), 2), ((4, 4), 4)], 1):
        kernel, bias = variables[f"model/{place}CNN/kernel"], variables[f"model/{place}CNN/bias"]
        convolved = [
            sum(correlate2d(m, kernel[:, :, i, o], mode="same") for i, m in enumerate(maps)) + bias[o] for o in range(2)
        ]
        maps = [
            np.lib.stride_tricks.sliding_window_view(m, size)[::stride, ::stride].max((2, 3))
            for m in norm(np.maximum(convolved, 0), place)
        ]
    features = np.stack(maps, -1).ravel()
    return np.concatenate((features, features @ variables["model/dense/kernel"] + variables["model/dense/bias"]))


def test_the_network_is_the_published_one(variables):
    patch = np.random.default_rng(1).uniform(0, 3, (187, 96)).astype(np.float32)
    tagger = tagging_teacher.Tagger(variables)
    with torch.no_grad():
        found = tagger(torch.from_numpy(patch)[None])[0].numpy()
    np.testing.assert_allclose(found, compute(variables, patch.astype(np.float64)), rtol=1e-3, atol=1e-2)


def test_every_30_seconds_are_heard_once(variables, tmp_path, monkeypatch):
    index, data = checkpoint(variables)
    with zipfile.ZipFile(tmp_path / "tagger.whl", "w") as wheel:
        wheel.writestr("musicnn/MSD_vgg/.index", index)
        wheel.writestr("musicnn/MSD_vgg/.data-00000-of-00001", data)
    soundfile.write(tmp_path / "a.wav", np.concatenate((tone(30, 22050), 0.1 * tone(8, 22050, 900))), 22050)
    soundfile.write(tmp_path / "b.wav", tone(2, 22050), 22050)
    places = [("a", 0.0), ("a", 30.0), ("b", 0.0)]
    rows = [{"track": track, "path": tmp_path / f"{track}.wav", "start": start} for track, start in places]
    monkeypatch.setattr(tagging_teacher, "read_data", lambda data, game: rows)
    arguments = [str(tmp_path / "tagger.whl"), "--data", ".", "--game", ".", "--work", str(tmp_path)]
    tagging_teacher.main(arguments)
    with np.load(tmp_path / "tagger.npz", allow_pickle=False) as heard:
        assert list(zip(heard["track"].tolist(), heard["start"].tolist())) == places
        assert heard["tagger"].shape == (3, 54) and np.isfinite(heard["tagger"]).all()
        tagger = tagging_teacher.load_tagger(tmp_path / "tagger.whl")
        waveform, rate = tagging_teacher.load_audio(tmp_path / "a.wav")
        waveform = tagging_teacher.librosa.resample(waveform, orig_sr=rate, target_sr=16000)
        second = tagging_teacher.hear(tagger, waveform[480000:])
        np.testing.assert_allclose(heard["tagger"][1], second, rtol=1e-4, atol=1e-3)
        assert np.abs(heard["tagger"][1] - heard["tagger"][0]).max() > 0.1
    monkeypatch.setattr(tagging_teacher, "hear", lambda *args: pytest.fail("heard already"))
    tagging_teacher.main(arguments)
