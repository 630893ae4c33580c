"""Metrics: against independent computations, invariances, and what is defined where nothing can be said."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, SHARED
from mer.training.metrics import (
    bootstrap_intervals,
    expected_calibration_error,
    mood_metrics,
    quadrant_metrics,
    quadrant_of,
    score_predictions,
    tag_metrics,
    valence_arousal_metrics,
)

MODULE = ROOT / "training" / "metrics" / "mer_metrics.py"


def tags(rows=60, tags=5, seed=0):
    """Labels and correlated probabilities, (rows, tags); every tag has both labels."""
    random = np.random.default_rng(seed)
    labels = random.random((rows, tags)) < 0.3
    labels[0], labels[1] = True, False
    return labels.astype(float), 1 / (1 + np.exp(-(random.standard_normal((rows, tags)) + labels)))


def axes(rows=50, seed=1):
    """True and predicted [valence, arousal] on 1-9, (rows, 2)."""
    random = np.random.default_rng(seed)
    truth = random.uniform(2, 8, (rows, 2))
    return truth, 0.6 * truth + 1.5 + 0.7 * random.standard_normal((rows, 2))


@pytest.mark.skipif(not (SHARED / "data" / "mediaeval").exists(), reason="needs shared/data/mediaeval")
def test_official_baseline_of_mtg_jamendo():
    folder = SHARED / "data" / "mediaeval"
    labels = np.load(folder / "groundtruth.npy", allow_pickle=False)
    probabilities = np.load(folder / "baseline_vggish_predictions.npy", allow_pickle=False)
    found = mood_metrics(labels, probabilities)
    assert round(found["pr_auc"], 6) == 0.107734
    assert round(found["roc_auc"], 6) == 0.725821
    assert found["tags_scored"] == 56


def test_average_precision_is_the_mean_precision_at_the_positives():
    labels, scores = tags()
    for tag, found in enumerate(tag_metrics(labels, scores)["pr_auc"]):
        ranked = labels[np.argsort(-scores[:, tag]), tag]
        precisions = [ranked[: place + 1].mean() for place in np.flatnonzero(ranked)]
        assert found == pytest.approx(np.mean(precisions))


def test_roc_auc_is_the_share_of_pairs_in_order():
    labels, scores = tags()
    for tag, found in enumerate(tag_metrics(labels, scores)["roc_auc"]):
        positive, negative = scores[labels[:, tag] == 1, tag], scores[labels[:, tag] == 0, tag]
        assert found == pytest.approx(np.mean(positive[:, None] > negative[None]))


def test_macro_is_the_mean_over_tags():
    labels, scores = tags()
    found, each = mood_metrics(labels, scores), tag_metrics(labels, scores)
    assert found["pr_auc"] == pytest.approx(each["pr_auc"].mean())
    assert found["roc_auc"] == pytest.approx(each["roc_auc"].mean())
    assert found["tags_scored"] == 5


def test_ranking_depends_on_order_only():
    labels, scores = tags()
    mixed = np.random.default_rng(3).permutation(len(labels))
    expected = tag_metrics(labels, scores)
    for found in (tag_metrics(labels, np.log(scores)), tag_metrics(labels[mixed], scores[mixed])):
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name])


def test_perfect_and_reversed_ranking():
    labels, _ = tags()
    assert mood_metrics(labels, labels)["pr_auc"] == mood_metrics(labels, labels)["roc_auc"] == 1
    assert mood_metrics(labels, 1 - labels)["roc_auc"] == 0


def test_constant_scores_have_prevalence_and_one_half():
    labels, _ = tags()
    found = tag_metrics(labels, np.full(labels.shape, 0.3))
    np.testing.assert_allclose(found["pr_auc"], labels.mean(axis=0))
    np.testing.assert_allclose(found["roc_auc"], 0.5)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_tag_with_one_label_only_is_left_out_and_not_counted(value):
    labels, scores = tags()
    expected = mood_metrics(labels[:, 1:], scores[:, 1:])
    labels[:, 0] = value
    each, found = tag_metrics(labels, scores), mood_metrics(labels, scores)
    assert np.isnan(each["pr_auc"][0]) and np.isnan(each["roc_auc"][0])
    assert found["tags_scored"] == 4
    assert found["pr_auc"] == pytest.approx(expected["pr_auc"])
    assert found["roc_auc"] == pytest.approx(expected["roc_auc"])


def test_no_tag_to_score():
    _, scores = tags()
    found = mood_metrics(np.zeros_like(scores), scores)
    assert np.isnan(found["pr_auc"]) and np.isnan(found["roc_auc"])
    assert found["tags_scored"] == 0
    assert found["ece"] > 0


def test_calibration_error_by_hand():
    # Bins of a tenth. Tag 0: .12 and .18 share a bin with one positive of two: |.15 - .5|; .95, positive: .05.
    labels = np.array([[0, 0], [1, 0], [1, 0]])
    probabilities = np.array([[0.12, 0.0], [0.18, 0.0], [0.95, 0.0]])
    expected = (2 / 3 * 0.35 + 1 / 3 * 0.05 + 0) / 2
    assert expected_calibration_error(labels, probabilities, bins=10) == pytest.approx(expected)


def test_calibration_error_of_honest_and_of_boastful_probabilities():
    random = np.random.default_rng(0)
    probabilities = random.random((20000, 3))
    labels = random.random((20000, 3)) < probabilities
    assert expected_calibration_error(labels, probabilities) < 0.02
    assert expected_calibration_error(labels, (probabilities > 0.5).astype(float)) == pytest.approx(0.25, abs=0.01)
    assert expected_calibration_error([[1], [0]], [[1.0], [0.0]]) == 0
    assert expected_calibration_error([[1], [0]], [[0.0], [1.0]]) == 1


def test_calibration_error_refuses_logits():
    with pytest.raises(ValueError, match="are these logits"):
        expected_calibration_error([[1], [0]], [[2.0], [-3.0]])


def test_valence_and_arousal_by_their_formulas():
    truth, answer = axes()
    found = valence_arousal_metrics(truth, answer)
    for column, axis in enumerate(("valence", "arousal")):
        t, a = truth[:, column], answer[:, column]
        correlation = np.corrcoef(t, a)[0, 1]
        bias = 2 / (t.std() / a.std() + a.std() / t.std() + (t.mean() - a.mean()) ** 2 / (t.std() * a.std()))
        assert found[f"{axis}_r2"] == pytest.approx(1 - ((t - a) ** 2).sum() / ((t - t.mean()) ** 2).sum())
        assert found[f"{axis}_rmse"] == pytest.approx(np.sqrt(((t - a) ** 2).mean()))
        assert found[f"{axis}_pearson"] == pytest.approx(correlation)
        assert found[f"{axis}_ccc"] == pytest.approx(correlation * bias)


def test_columns_are_valence_then_arousal():
    truth, answer = axes()
    answer[:, 1] = truth[:, 1]
    found = valence_arousal_metrics(truth, answer)
    assert found["arousal_rmse"] == 0 and found["arousal_r2"] == found["arousal_ccc"] == 1
    assert found["valence_rmse"] > 0.1


def test_change_of_scale():
    truth, answer = axes()
    nine, one = valence_arousal_metrics(truth, answer), valence_arousal_metrics((truth - 1) / 8, (answer - 1) / 8)
    for name, value in nine.items():
        assert one[name] == pytest.approx(value / 8 if name.endswith("rmse") else value)


def test_constant_prediction_explains_nothing():
    truth, _ = axes()
    found = valence_arousal_metrics(truth, np.broadcast_to(truth.mean(axis=0), truth.shape))
    assert found["valence_r2"] == pytest.approx(0)
    assert found["valence_pearson"] == found["valence_ccc"] == 0
    assert found["valence_rmse"] == pytest.approx(truth[:, 0].std())


def test_nothing_to_explain_is_nan():
    for truth in ([[3.0, 4.0]], [[3.0, 4.0], [3.0, 4.0]]):
        found = valence_arousal_metrics(truth, np.array(truth) + 1)
        for name, value in found.items():
            assert value == pytest.approx(1) if name.endswith("rmse") else np.isnan(value)


def test_quadrants_of_corners_and_of_the_middle():
    corners = np.array([[8, 8], [2, 8], [2, 2], [8, 2]])
    assert quadrant_of(corners).tolist() == [0, 1, 2, 3]
    assert quadrant_of([[5, 5], [5.01, 5], [5, 5.01]]).tolist() == [2, 3, 1]
    assert quadrant_of((corners - 5) / 4, scale=(-1, 1)).tolist() == [0, 1, 2, 3]


def test_quadrant_metrics_by_counting():
    labels = [0, 0, 0, 1, 1, 2]
    points = {0: (7, 7), 1: (3, 7), 2: (3, 3), 3: (7, 3)}
    found = quadrant_metrics(labels, [points[q] for q in (0, 0, 1, 1, 3, 3)])
    assert found["quadrant_accuracy"] == pytest.approx(3 / 6)
    # F1 = 2 tp / (2 tp + fp + fn); quadrant 3 does not occur in the labels.
    assert found["quadrant_f1"] == pytest.approx((4 / 5 + 2 / 4 + 0) / 3)


def broken(array, row, value=np.nan):
    array = np.array(array, dtype=float)
    array[row, 0] = value
    return array


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_named(value):
    (labels, scores), (truth, answer) = tags(), axes()
    for call, name in (
        (lambda: tag_metrics(broken(labels, 7, value), scores), "labels"),
        (lambda: tag_metrics(labels, broken(scores, 7, value)), "scores"),
        (lambda: mood_metrics(labels, broken(scores, 7, value)), "probabilities"),
        (lambda: valence_arousal_metrics(broken(truth, 7, value), answer), "labels"),
        (lambda: valence_arousal_metrics(truth, broken(answer, 7, value)), "predictions"),
        (lambda: quadrant_metrics(quadrant_of(truth), broken(answer, 7, value)), "valence_arousal"),
    ):
        with pytest.raises(ValueError, match=f"{name} hold NaN or infinity in 1 of .* row 7"):
            call()


def test_shapes_and_values_that_do_not_fit():
    (labels, scores), (truth, answer) = tags(), axes()
    for call, message in (
        (lambda: tag_metrics(labels[1:], scores), "differ in shape"),
        (lambda: tag_metrics(labels, scores[:, :1]), "differ in shape"),
        (lambda: tag_metrics(labels[:, 0], scores[:, 0]), "shape"),
        (lambda: tag_metrics(labels[:0], scores[:0]), "at least one row"),
        (lambda: tag_metrics(labels * 2, scores), "0 or 1"),
        (lambda: tag_metrics([[None]], [[1.0]]), "numbers"),
        (lambda: valence_arousal_metrics(truth[1:], answer), "differ in shape"),
        (lambda: valence_arousal_metrics(scores, scores), "shape"),
        (lambda: quadrant_metrics([0], answer), "1 labels for 50 rows"),
        (lambda: quadrant_metrics([-100] * 50, answer), "leave unknown ones out"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_rows_without_a_label_are_left_out():
    (labels, scores), (truth, answer) = tags(60), axes(60)
    quadrants = quadrant_of(truth)
    expected = (
        mood_metrics(labels[:40], scores[:40])
        | valence_arousal_metrics(truth[30:], answer[30:])
        | quadrant_metrics(quadrants[::2], answer[::2])
    )
    labels[40:], truth[:30], quadrants[1::2] = np.nan, np.nan, -100
    assert score_predictions(scores, answer, labels, truth, quadrants) == expected
    assert score_predictions(scores, answer) == {}
    assert score_predictions(scores, answer, np.full_like(labels, np.nan), None, np.full(60, -100)) == {}


def test_bootstrap_of_a_mean_has_the_width_of_its_standard_error():
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = bootstrap_intervals(lambda v: {"mean": v.mean()}, values, resamples=2000)["mean"]
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(400), rel=0.06)


def test_bootstrap_draws_rows_together_and_is_reproducible():
    rows = np.arange(30)
    same = bootstrap_intervals(lambda a, b: {"same": float((a == b).all())}, rows, rows.copy(), resamples=20)
    assert same["same"] == (1, 1)
    first, again, other = (
        bootstrap_intervals(lambda v: {"mean": v.mean()}, rows, resamples=50, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_bootstrap_skips_resamples_that_say_nothing():
    found = bootstrap_intervals(
        lambda v: {"often": np.nan if v[0] == 0 else v.mean(), "never": np.nan}, np.arange(5.0), resamples=200
    )
    assert 0 < found["often"][0] < found["often"][1]
    assert np.isnan(found["never"]).all()


def test_evaluate_module_loads_by_path_away_from_the_package(tmp_path):
    (labels, scores), (truth, answer) = tags(), axes()
    quadrants = quadrant_of(truth)
    cases = {
        "mood": [labels.tolist(), scores.tolist()],
        "valence_arousal": [truth.tolist(), answer.tolist()],
        "quadrant": [quadrants.tolist(), answer.tolist()],
    }
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    (tmp_path / "script.py").write_text(
        "import json, sys\n"
        "import evaluate\n"
        "cases, found = json.load(open('cases.json')), {}\n"
        "for name, (references, predictions) in cases.items():\n"
        "    found[name] = evaluate.load(sys.argv[1], name).compute(references=references, predictions=predictions)\n"
        "broken = {'references': [[0], [1]], 'predictions': [[.1], [float('nan')]]}\n"
        "for act in (\n"
        "    lambda: evaluate.load(sys.argv[1], 'mood').compute(**broken),\n"
        "    lambda: evaluate.load(sys.argv[1]),\n"
        "):\n"
        "    try:\n"
        "        act()\n"
        "    except ValueError as error:\n"
        "        found.setdefault('errors', []).append(str(error))\n"
        "json.dump(found, open('found.json', 'w'))\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    environment.pop("HF_MODULES_CACHE", None)
    subprocess.run([sys.executable, "script.py", str(MODULE)], cwd=tmp_path, env=environment, check=True, timeout=120)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["mood"] == pytest.approx(mood_metrics(labels, scores.astype(np.float32)))
    assert found["valence_arousal"] == pytest.approx(
        valence_arousal_metrics(truth.astype(np.float32), answer.astype(np.float32))
    )
    assert found["quadrant"] == pytest.approx(quadrant_metrics(quadrants, answer))
    nan, configuration = found["errors"]
    assert "probabilities hold NaN or infinity in 1 of 2 rows" in nan
    assert "mood, valence_arousal, quadrant" in configuration
