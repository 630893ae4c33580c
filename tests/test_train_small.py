import argparse
import csv
import importlib.util
import json

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT
from mer import MERForAudioClassification
from mer.scripts import train_small
from mer.scripts.predict import load_pipeline
from signals import tone


@pytest.fixture
def arguments(tmp_path):
    """A miniature of the data: four clips with people's labels, two pieces of game music, and the teachers' tables."""
    data, game = tmp_path / "data", tmp_path / "game"
    (data / "panda4q" / "audio").mkdir(parents=True)
    (data / "teachers").mkdir()
    game.mkdir()
    clips = ["A", "B", "C", "D"]
    with open(data / "panda4q" / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clip_id", "artist", "quadrant", "moods", "genres", "split"])
        for number, clip in enumerate(clips):
            split = "validation" if number == 3 else "train"
            writer.writerow([clip, f"artist {clip}", f"Q{number + 1}", "Happy; Loud", "Jazz", split])
            audio = tone(11, 48000, 200 * (number + 1))
            soundfile.write(data / "panda4q" / "audio" / f"{clip}.opus", audio, 48000, format="OGG", subtype="OPUS")
    for name in ("x.wav", "y.wav"):
        soundfile.write(game / name, tone(35, 22050), 22050)
    rows = {"panda4q": [(clip, 0) for clip in clips], "game_music": [(n, s) for n in ("x.wav", "y.wav") for s in (0, 30)]}
    random = np.random.default_rng(0)
    for body, tracks in rows.items():
        np.savez(
            data / "teachers" / f"{body}.npz",
            track=[track for track, _ in tracks],
            start=np.array([start for _, start in tracks], np.float32),
            dur=np.full(len(tracks), 5, np.float32),
            mood=random.uniform(0.01, 0.9, (len(tracks), 56)).astype(np.float32),
            va_emomusic=random.uniform(1, 9, (len(tracks), 2)).astype(np.float32),
            embedding=random.standard_normal((len(tracks), 200)).astype(np.float32),
        )

    def make(name, *more):
        paths = {"--data": data, "--game": game, "--work": tmp_path / "work", "--out": tmp_path / name}
        return [str(x) for pair in paths.items() for x in pair] + [
            "--name", name, "--epochs", "2", "--batch-size", "4", *more,
        ]  # fmt: skip

    return make


def weights(folder):
    return MERForAudioClassification.from_pretrained(folder).state_dict()


def test_a_run_that_is_cut_and_resumed_gives_the_same_weights(arguments, tmp_path, monkeypatch):
    train_small.main(arguments("whole"))
    validate, calls = train_small.validate, []

    def cut(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return validate(*args)

    monkeypatch.setattr(train_small, "validate", cut)
    with pytest.raises(KeyboardInterrupt):
        train_small.main(arguments("cut"))
    monkeypatch.setattr(train_small, "validate", validate)
    monkeypatch.setattr(train_small, "load_audio", lambda path: pytest.fail("features must not be made twice"))
    train_small.main(arguments("cut"))
    whole, cut = (np.load(tmp_path / "work" / f"{name}.npz", allow_pickle=False) for name in ("whole", "cut"))
    assert whole["track"].tolist() and whole["tags"].shape == (len(whole["track"]), 56)
    assert all(np.array_equal(whole[name], cut[name]) for name in whole.files)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-6, rtol=1e-5)
    answer = load_pipeline(tmp_path / "cut")(str(tmp_path / "game" / "x.wav"), return_valence_arousal=True)
    assert 1 <= answer["valence"] <= 9 and len(answer["tags"]) == 56
    train_small.main(arguments("other", "--seed", "1"))
    assert any((weights(tmp_path / "other")[name] - value).abs().max() > 1e-3 for name, value in one.items())


def test_validation_clips_are_never_trained_on_and_crops_stay_inside(arguments):
    args = arguments("rows")
    train_small.main([*args, "--features-only"])
    paths = dict(zip(args[::2], args[1::2]))
    rows = train_small.read_data(*(train_small.Path(paths[name]) for name in ("--data", "--game")))
    assert len(rows) == 8 and [row["split"] for row in rows[:4]] == ["train"] * 3 + ["validation"]
    assert [row["quadrant"] for row in rows] == [0, 1, 2, 3, -100, -100, -100, -100]
    assert all(np.isnan(row["words"]).all() for row in rows[4:])
    extractor = train_small.MERFeatureExtractor()
    work = train_small.Path(paths["--work"]) / "features"
    train = train_small.Segments([row for row in rows if row["split"] == "train"], work, extractor, True)
    assert [row["track"] for row in train.rows] == ["A", "B", "C", "x.wav", "x.wav", "y.wav", "y.wav"]
    # 11 s at 50 frames/s; the second segment of a 35 s piece has 5 s
    assert train.rows[0]["mel"].shape == (64, 551) and train.rows[4]["mel"].shape == (64, 251)
    for item in train:
        assert item["mel"].shape == (64, 500) and item["mel"].isfinite().all()
        assert item["mel"].min() >= train_small.FLOOR - 1e-6
    first = train[0]["mel"]
    torch.testing.assert_close(train[0]["mel"], first)
    train.epoch = 1
    assert (train[0]["mel"] - first).abs().max() > 0.1


def test_training_sees_the_frames_that_serving_sees(arguments, tmp_path):
    """Encoder on stored frames = encoder on the segment's real samples."""
    args = arguments("rows")
    train_small.main([*args, "--features-only"])
    with np.load(tmp_path / "work" / "features" / "x.wav.npz", allow_pickle=False) as stored:
        mel, frames = torch.from_numpy(stored["mel"]).float(), stored["frames"]
    model = MERForAudioClassification(train_small.MERConfig()).eval()
    waveform, rate = train_small.load_audio(tmp_path / "game" / "x.wav")
    features = train_small.MERFeatureExtractor().segment([waveform], rate)
    with torch.no_grad():
        served = model.encode(torch.from_numpy(features["input_values"]), torch.from_numpy(features["lengths"]))[0]
        for index in range(2):
            states = model.mer.encoder.forward_mel(mel[index : index + 1, :, : frames[index] + 1])
            torch.testing.assert_close(states[-1].mean(1)[0], served[index], atol=0.05, rtol=0.05)


def logged(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.log").read_text().splitlines() if line.startswith("{")]


def test_what_is_left_out_is_left_out(arguments, tmp_path, capsys):
    everything = {"embedding", "tags", "tag_logits", "va", "signs", "words", "four"}
    for name, options, missing in (
        ("all", [], set()),
        ("tags", ["tags", "va", "chords", "mode", "augmentation"], {"tags", "tag_logits", "va"}),
        ("game", ["game", "embedding", "words", "four"], {"embedding", "words", "four"}),
    ):
        train_small.main(arguments(name, *(["--without", *options] if options else [])))
        assert set(logged(tmp_path / "work", name)[-1]) & everything == everything - missing
    assert "0.0 hours without" in capsys.readouterr().out
    bare = MERForAudioClassification.from_pretrained(tmp_path / "tags").config
    assert not bare.use_chords and not bare.use_mode


def test_sizes_and_the_published_losses(arguments, tmp_path):
    for size in ("small", "large"):
        train_small.main(arguments(size, "--size", size, "--epochs", "1", "--paper"))
    small, large = (sum(w.numel() for w in weights(tmp_path / size).values()) for size in ("small", "large"))
    assert small < 1e6 < 3e6 < large < 5e6  # 20 MB of float32
    assert "tag_logits" not in logged(tmp_path / "work", "small")[-1]


def test_folds_are_of_artists_and_cover_every_clip(monkeypatch):
    random = np.random.default_rng(0)
    rows = [{"artist": f"artist {random.integers(40)}", "quadrant": n % 4, "track": n} for n in range(200)]
    rows += [{"artist": None, "quadrant": -100, "track": 1000 + n, "split": "train"} for n in range(5)]
    held_out = []
    for fold in range(train_small.FOLDS):
        split = train_small.assign_fold(rows, fold)
        parts = {name: [row for row in split if row["split"] == name] for name in ("train", "validation")}
        artists = [{row["artist"] for row in part} for part in parts.values()]
        assert not artists[0] & artists[1] and len(parts["train"]) + len(parts["validation"]) == 205
        assert all(20 < sum(row["quadrant"] == q for row in parts["train"]) < 50 for q in range(4))
        held_out += [row["track"] for row in parts["validation"]]
    assert sorted(held_out) == list(range(200))


def test_temperatures_make_quadrants_calibrated(tmp_path):
    """Of clips whose quadrants follow their valence and arousal by chance, four times less surely than these say."""
    spec = importlib.util.spec_from_file_location("small", ROOT / "benchmarks" / "small.py")
    small = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(small)
    random = np.random.default_rng(0)
    va = random.normal(5, 3, (4000, 2))
    positive = random.random(va.shape) < 1 / (1 + np.exp(-(va - 5) / 4))
    quadrant = np.array([[2, 1], [3, 0]])[positive[:, 0].astype(int), positive[:, 1].astype(int)]
    tracks = np.array([f"track {n}" for n in range(len(va))])
    for fold, part in enumerate(np.array_split(np.arange(len(va)), train_small.FOLDS)):
        np.savez(tmp_path / f"as-shipped-fold{fold}-seed0.npz", track=tracks[part], valence_arousal=va[part])
    args = argparse.Namespace(work=tmp_path, seeds=1)
    error = small.calibration(args, "as shipped", dict(zip(tracks.tolist(), quadrant.tolist())))
    assert error["with"] < 0.03 < 0.1 < error["without"]
    corners = small.quadrant_probabilities(np.array([[9.0, 9], [1, 9], [1, 1], [9, 1]]), 1.0)
    np.testing.assert_allclose(corners, np.eye(4), atol=0.04)
