import threading

import numpy as np
import pytest
import soundfile
import torch
from signals import tone
from mer import MERFeatureExtractor, MERPipeline
from transformers import AudioClassificationPipeline, ViTConfig, ViTForImageClassification

RATE = 16000


@pytest.fixture
def pipe(tiny_model):
    return MERPipeline(model=tiny_model, feature_extractor=MERFeatureExtractor())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name, seconds, rate in (("a.wav", 2, 44100), ("b.flac", 33, 22050), ("c.ogg", 1, 48000)):
        soundfile.write(folder / name, tone(seconds, rate, frequency=220 * seconds), rate)
    return [str(folder / name) for name in ("a.wav", "b.flac", "c.ogg")]


def scores(tags):
    return {tag["label"]: tag["score"] for tag in tags}


def close(one, other, tolerance=1e-5):
    one, other = scores(one), scores(other)
    return one.keys() == other.keys() and all(abs(one[k] - other[k]) < tolerance for k in one)


def test_answer_equals_extractor_and_model_by_hand(pipe, files):
    waveform, rate = soundfile.read(files[1], dtype="float32")
    features = pipe.feature_extractor(waveform, sampling_rate=rate, return_tensors="pt", return_harmony=True)
    harmony = features.pop("harmony")[0]
    with torch.no_grad():
        output = pipe.model(**features)
    answer = pipe(files[1], return_valence_arousal=True)
    expected = output.logits[0].sigmoid()
    labels = pipe.model.config.label2id
    assert len(answer["tags"]) == 56
    for tag in answer["tags"]:
        assert tag["score"] == pytest.approx(expected[labels[tag["label"]]].item(), abs=1e-6)
    ranked = [tag["score"] for tag in answer["tags"]]
    assert ranked == sorted(ranked, reverse=True)
    va = output.valence_arousal[0].clamp(1, 9)
    assert [answer["valence"], answer["arousal"]] == pytest.approx(va.tolist(), abs=1e-5)
    assert answer["scale"] == [1, 9]
    assert answer["chords"] == [{"start": c.start, "end": c.end, "label": c.label} for c in harmony.chords]
    assert answer["key"] == (None if harmony.key is None else str(harmony.key))


def test_every_kind_of_input_gives_the_same_answer(pipe, files):
    samples, rate = soundfile.read(files[0], dtype="float32")
    with open(files[0], "rb") as file:
        content = file.read()
    expected = pipe(files[0])
    for same in (
        content,
        {"array": samples, "sampling_rate": rate},
        {"raw": np.stack((samples, samples)), "sampling_rate": rate},
        {"array": torch.from_numpy(samples), "sampling_rate": rate},
        {"path": files[0], "bytes": content},
    ):
        assert close(pipe(same), expected, 1e-4)
    clip = tone(2, RATE)
    assert close(pipe(clip), pipe({"array": clip, "sampling_rate": RATE}))


def test_lists_and_batches_change_nothing(pipe, files):
    single = [pipe(file, return_valence_arousal=True) for file in files]
    for options in ({}, {"batch_size": 3}, {"batch_size": 2}, {"batch_size": 2, "num_workers": 1}):
        many = pipe(files, return_valence_arousal=True, **options)
        assert len(many) == 3
        for one, other in zip(many, single):
            assert close(one["tags"], other["tags"]) and one["chords"] == other["chords"]
            assert one["key"] == other["key"] and one["arousal"] == pytest.approx(other["arousal"], abs=1e-4)
    assert [scores(tags) for tags in pipe(files[::-1])] == [scores(tags) for tags in pipe(files)][::-1]


def test_top_k_at_construction_and_per_call(pipe, tiny_model, files):
    three = MERPipeline(model=tiny_model, feature_extractor=pipe.feature_extractor, top_k=3)
    everything = pipe(files[0])
    assert len(everything) == 56
    assert three(files[0]) == everything[:3]
    assert three(files[0], top_k=5) == everything[:5]
    assert three(files[0], top_k=None) == everything and three(files[0], top_k=1000) == everything
    assert three(files[0]) == everything[:3], "a call's choice must not stick"
    assert len(three(files[0], return_valence_arousal=True)["tags"]) == 3
    for wrong in (0, -1, 2.5, "3"):
        with pytest.raises(ValueError, match="top_k"):
            pipe(files[0], top_k=wrong)


def test_function_to_apply(pipe, files):
    raw = scores(pipe(files[0], function_to_apply="none"))
    for label, score in scores(pipe(files[0])).items():
        assert score == pytest.approx(1 / (1 + np.exp(-raw[label])), abs=1e-6)
    assert sum(scores(pipe(files[0], function_to_apply="softmax")).values()) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="function_to_apply"):
        pipe(files[0], function_to_apply="tanh")
    with pytest.raises(TypeError, match="treshold"):
        pipe(files[0], treshold=0.5)


def test_valence_and_arousal_stay_on_the_scale(pipe, files):
    with torch.no_grad():
        pipe.model.valence_arousal_head[-1].bias.copy_(torch.tensor([50.0, -50.0]))
    answer = pipe(files[0], return_valence_arousal=True)
    assert (answer["valence"], answer["arousal"]) == (9, 1)


def test_decoded_once_and_harmony_runs_beside_the_encoder(pipe, files, monkeypatch):
    """One decode serves all, and the encoder starts before chords and key are there."""
    decoded, encoder_started = [], threading.Event()
    original = soundfile.SoundFile
    monkeypatch.setattr(soundfile, "SoundFile", lambda *args: decoded.append(1) or original(*args))
    recognize, encode = pipe.feature_extractor.recognize_harmony, pipe.model.encode

    def late(*args):
        assert encoder_started.wait(timeout=60), "the encoder waited for the harmony"
        return recognize(*args)

    def announce(*args):
        encoder_started.set()
        return encode(*args)

    monkeypatch.setattr(pipe.feature_extractor, "recognize_harmony", late)
    monkeypatch.setattr(pipe.model, "encode", announce)
    assert len(pipe(files[0])) == 56 and decoded == [1]


def test_a_failing_recogniser_is_heard(pipe, files, monkeypatch):
    def fail(*args):
        raise RuntimeError("no network")

    monkeypatch.setattr(pipe.feature_extractor, "recognize_harmony", fail)
    with pytest.raises(RuntimeError, match="no network"):
        pipe(files[0])


def test_stock_pipeline_on_a_waveform(pipe, tiny_model):
    stock = AudioClassificationPipeline(model=tiny_model, feature_extractor=pipe.feature_extractor)
    clips = [tone(2, RATE), tone(31, RATE, 330), tone(1, RATE, 880)]
    for clip in clips:
        assert close(stock(clip, top_k=56), pipe(clip))
    for one, clip in zip(stock(clips, top_k=56, batch_size=3), clips):
        assert close(one, pipe(clip))


def test_other_models_are_refused():
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=8, patch_size=4
    )
    with pytest.raises(ValueError, match="serves MER models, not 'vit'"):
        MERPipeline(model=ViTForImageClassification(config), feature_extractor=MERFeatureExtractor())
