import json

import pytest
from mer import MERConfig, MERMelConfig
from mer.configuration_mer import CHORD_QUALITIES, CHORD_ROOTS, MOOD_TAGS
from transformers import AutoConfig, HubertConfig


def test_vocabularies_are_those_of_the_field():
    assert len(MOOD_TAGS) == 56 and list(MOOD_TAGS) == sorted(MOOD_TAGS)
    assert MOOD_TAGS[0] == "action" and MOOD_TAGS[-2:] == ("upbeat", "uplifting")
    assert len(CHORD_ROOTS) == 13 and len(CHORD_QUALITIES) == 14 and CHORD_ROOTS[0] == CHORD_QUALITIES[0] == "N"
    config = MERConfig()
    assert [config.id2label[i] for i in range(56)] == list(MOOD_TAGS)
    assert config.label2id["uplifting"] == 55 and config.num_labels == 56


def test_round_trip_keeps_every_value(tmp_path):
    config = MERConfig(
        encoder_config=HubertConfig(hidden_size=48, num_attention_heads=4),
        layers=(6, 7),
        thresholds=[0.25] * 56,
        tag_positive_rates=[0.5] * 56,
        chord_padding_mask=False,
        segment_pooling="equal",
        trunk_size=77,
        quadrant_head=True,
        quadrant_temperature=1.5,
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, MERConfig) and isinstance(loaded.encoder_config, HubertConfig)
    written = json.loads((tmp_path / "config.json").read_text())
    loaded.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == written
    assert loaded.encoder_config.hidden_size == 48 and loaded.embedding_size == 96 and loaded.trunk_size == 77
    assert tuple(loaded.layers) == (6, 7) and loaded.segment_pooling == "equal" and not loaded.chord_padding_mask
    assert loaded.thresholds == [0.25] * 56 and loaded.tag_positive_rates == [0.5] * 56
    assert loaded.quadrant_head and loaded.quadrant_temperature == 1.5


def test_own_tags_replace_the_default():
    config = MERConfig(id2label={0: "calm", 1: "tense"}, label2id={"calm": 0, "tense": 1})
    assert config.num_labels == 2 and config.id2label[1] == "tense"


@pytest.mark.parametrize(
    ("given", "thresholds"),
    [
        ({"id2label": {0: "calm", 1: "tense"}, "label2id": {"calm": 0, "tense": 1}}, None),
        ({"num_labels": 2}, None),
        ({"num_labels": 2, "thresholds": [0.1, 0.2]}, [0.1, 0.2]),
        ({"num_labels": 3}, None),
        ({"num_labels": 56}, [0.5] * 56),
        ({"id2label": dict(enumerate(MOOD_TAGS[::-1]))}, None),
    ],
)
def test_other_tags_than_the_files_have_no_thresholds_of_those(tmp_path, given, thresholds):
    MERConfig(thresholds=[0.5] * 56, tag_positive_rates=[0.1] * 56).save_pretrained(tmp_path)
    config = MERConfig.from_pretrained(tmp_path, **given)
    assert config.thresholds == thresholds
    assert (config.tag_positive_rates is None) == (thresholds != [0.5] * 56)
    config.save_pretrained(tmp_path / "again")
    again = MERConfig.from_pretrained(tmp_path / "again")
    assert again.id2label == config.id2label and again.label2id == config.label2id and again.thresholds == thresholds


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"layers": (0,)}, "layers"),
        ({"layers": ()}, "layers"),
        ({"layers": (2, 2)}, "layers"),
        ({"layers": (99,)}, "layer 99, but the encoder has 4"),
        ({"segment_pooling": "max"}, "segment_pooling"),
        ({"chord_vocab_size": 13}, "chord_qualities"),
        ({"chord_heads": 3}, "chord_heads"),
        ({"problem_type": "regression"}, "multi_label_classification"),
        ({"valence_arousal_range": (9, 1)}, "must rise"),
        ({"thresholds": [0.5]}, "1 values for 56 tags; set it to None, with other tags"),
        ({"thresholds": [1.5] * 56}, "thresholds must lie"),
        ({"tag_positive_rates": [0.0] * 56}, "tag_positive_rates must lie above 0"),
        ({"encoder_config": {"model_type": "no-such"}}, "'no-such' is unknown"),
        ({"trunk_size": "wide"}, "trunk_size"),
        ({"quadrant_temperature": 0}, "quadrant_temperature must be above 0"),
    ],
)
def test_contradictions_are_refused_by_name(values, words):
    with pytest.raises(Exception, match="(?s)" + words):
        MERConfig(**values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_frequency": 9000.0}, "sampling_rate / 2"),
        ({"kernel_size": 4}, "odd"),
        ({"num_mel_bins": 60}, "num_mel_bins"),
        ({"stem_channels": ()}, "num_mel_bins"),
    ],
)
def test_encoder_contradictions_are_refused(values, words):
    with pytest.raises(Exception, match=words):
        MERMelConfig(**values)
