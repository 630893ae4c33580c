"""What the pictures of a run show, read back from the figures; and that they are whole files."""

import numpy as np
import pytest
from mer.training.plots import learning_curves, plot_learning_curves, plot_valence_arousal, valence_arousal_scatter
from sklearn.metrics import r2_score


def history(epochs=5, evaluated=True):
    logs = []
    for epoch in range(1, epochs + 1):
        parts = {"deam_valence_arousal_loss": 2 / epoch, "my_music_mood_distillation_loss": 0.5 / epoch}
        logs.append({"loss": 3 / epoch, "grad_norm": 1.0, "epoch": float(epoch), "step": 4 * epoch} | parts)
        if evaluated:
            scores = {"eval_deam_loss": 1 / epoch, "eval_deam_valence_r2": epoch / 10, "eval_deam_arousal_r2": np.nan}
            scores |= {"eval_my_music_loss": 0.3, "eval_my_music_pr_auc": 0.1, "eval_score": 1 - (epoch - 3) ** 2}
            logs.append(scores | {"epoch": float(epoch), "step": 4 * epoch})
    return logs


def lines(figure):
    """{(panel's title, label): (epochs, values)}"""
    return {
        (axes.get_title(), line.get_label()): tuple(map(list, line.get_data()))
        for axes in figure.axes
        for line in axes.lines
    }


def test_every_curve_has_its_panel():
    found = lines(learning_curves(history()))
    epochs = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert found["training loss", "loss of an optimiser step"] == (epochs, [3 / epoch for epoch in epochs])
    assert found["training loss", "deam: valence/arousal"] == (epochs, [2 / epoch for epoch in epochs])
    assert found["training loss", "my_music: tags, to the teacher"] == (epochs, [0.5 / epoch for epoch in epochs])
    assert found["validation loss of the labels", "deam"] == (epochs, [1 / epoch for epoch in epochs])
    assert found["validation scores", "deam: R2 of valence"] == (epochs, [epoch / 10 for epoch in epochs])
    assert found["validation scores", "my_music: PR-AUC of tags"] == (epochs, [0.1] * 5)
    assert found["combined score", "best: 1.000"] == ([3.0], [1.0])
    assert len(found) == 10


def test_a_resumed_run_is_drawn_once_and_a_run_without_evaluation_at_all():
    assert lines(learning_curves(history()[:6] + history()))["combined score", "score"][0] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert {panel for panel, _ in lines(learning_curves(history(evaluated=False)))} == {"training loss"}
    with pytest.raises(ValueError, match="nothing was logged"):
        learning_curves([])


def test_scatter_shows_labelled_rows_and_their_agreement():
    random = np.random.default_rng(0)
    labels = random.uniform(1, 9, (50, 2))
    predicted = labels + random.normal(size=(50, 2))
    labels[:5] = np.nan
    valence, arousal = valence_arousal_scatter(labels, predicted, "mine").axes
    for column, axes in enumerate((valence, arousal)):
        np.testing.assert_array_equal(axes.collections[0].get_offsets()[:, 0], labels[5:, column])
        np.testing.assert_array_equal(axes.collections[0].get_offsets()[:, 1], predicted[5:, column])
        assert f"R2 {r2_score(labels[5:, column], predicted[5:, column]):.3f}" in axes.get_title()
        assert "n = 45" in axes.get_title() and "1-9" in axes.get_xlabel()
    with pytest.raises(ValueError, match="no track has"):
        valence_arousal_scatter(labels[:5], predicted[:5])


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_files_are_whole(tmp_path, suffix, start):
    plot_learning_curves(history(), tmp_path / f"curves.{suffix}")
    plot_valence_arousal(np.full((3, 2), 5.0), np.full((3, 2), 4.0), tmp_path / f"plane.{suffix}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"curves.{suffix}", f"plane.{suffix}"]
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(start) and path.stat().st_size > 5000
