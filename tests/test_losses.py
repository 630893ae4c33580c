"""Losses against independent computations in numpy and scipy, and at their limits."""

import numpy as np
import pytest
import torch
from mer.training.losses import (
    bernoulli_distillation_loss,
    distillation_mix,
    mood_distillation_loss,
    mood_loss,
    quadrant_loss,
    softmax_distillation_loss,
    tag_positive_rates,
    valence_arousal_distillation_loss,
    valence_arousal_loss,
)
from scipy.special import expit, softmax
from scipy.stats import entropy


@pytest.fixture
def logits():
    return 3 * torch.randn(7, 56), 3 * torch.randn(7, 56)


@pytest.fixture
def pairs():
    return 1 + 8 * torch.rand(7, 2), 1 + 8 * torch.rand(7, 2)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_bernoulli_distillation_is_the_kl_of_independent_tags(logits, temperature):
    student, teacher = (expit(values.double().numpy() / temperature) for values in logits)
    expected = entropy(np.stack((teacher, 1 - teacher)), np.stack((student, 1 - student)), axis=0).sum(axis=1).mean()
    found = bernoulli_distillation_loss(*logits, temperature)
    assert found.item() == pytest.approx(expected * temperature**2, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("values", ["logits", "pairs"])
def test_softmax_distillation_is_the_published_kl(values, temperature, request):
    values = request.getfixturevalue(values)
    student, teacher = (softmax(value.double().numpy() / temperature, axis=1) for value in values)
    expected = entropy(teacher, student, axis=1).mean() * temperature**2
    assert softmax_distillation_loss(*values, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_presets_choose_the_form(logits, pairs):
    assert mood_distillation_loss(*logits, "paper", 2.0) == softmax_distillation_loss(*logits, 2.0)
    assert mood_distillation_loss(*logits, temperature=2.0) == bernoulli_distillation_loss(*logits, 2.0)
    assert valence_arousal_distillation_loss(*pairs, "paper", 2.0) == softmax_distillation_loss(*pairs, 2.0)
    expected = ((pairs[0] - pairs[1]).double().numpy() ** 2).mean()
    assert valence_arousal_distillation_loss(*pairs, temperature=2.0).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_student_that_equals_its_teacher_has_nothing_to_learn(logits, pairs, preset):
    for loss, values in ((mood_distillation_loss, logits[0]), (valence_arousal_distillation_loss, pairs[0])):
        student = values.clone().requires_grad_()
        found = loss(student, values, preset, 1.7)
        found.backward()
        assert found.item() == pytest.approx(0, abs=1e-6)
        torch.testing.assert_close(student.grad, torch.zeros_like(values), atol=1e-7, rtol=0)


def test_the_published_pair_form_sees_only_the_difference(pairs):
    student, teacher = pairs
    assert softmax_distillation_loss(teacher + 3, teacher).item() == pytest.approx(0, abs=1e-6)
    assert valence_arousal_distillation_loss(teacher + 3, teacher).item() == pytest.approx(9, rel=1e-5)


def test_bernoulli_distillation_has_the_gradient_of_cross_entropy_with_soft_labels(logits):
    student, teacher = logits[0].requires_grad_(), logits[1]
    (found,) = torch.autograd.grad(bernoulli_distillation_loss(student, teacher), student)
    (expected,) = torch.autograd.grad(56 * mood_loss(student, teacher.sigmoid()), student)
    torch.testing.assert_close(found, expected)


def test_the_temperature_keeps_the_scale_of_gradients(logits):
    def gradient(temperature):
        student = logits[0].clone().requires_grad_()
        return torch.autograd.grad(softmax_distillation_loss(student, logits[1], temperature), student)[0].norm()

    # Hinton et al.: towards high temperatures the gradient tends to (z - v) / n, whatever the temperature.
    centred = [values - values.mean(1, keepdim=True) for values in logits]
    limit = (centred[0] - centred[1]).norm() / 56 / 7
    assert gradient(1000.0).item() == pytest.approx(limit.item(), rel=0.01)


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_unknown_teacher_values_are_left_out(logits, pairs, preset):
    for loss, (student, teacher) in (
        (mood_distillation_loss, logits),
        (valence_arousal_distillation_loss, pairs),
    ):
        student, partly = student.clone().requires_grad_(), teacher.clone()
        partly[3:] = torch.nan
        found = loss(student, partly, preset, 1.0)
        assert found.item() == pytest.approx(loss(student[:3], teacher[:3], preset, 1.0).item(), rel=1e-5)
        found.backward()
        assert student.grad[:3].abs().sum() > 0
        assert (student.grad[3:] == 0).all()
        nothing = loss(student, torch.full_like(teacher, torch.nan), preset, 1.0)
        assert nothing.item() == 0 and nothing.requires_grad


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_extreme_logits_stay_finite(preset):
    student = torch.tensor([[80.0, -80.0, 0.0]], requires_grad=True)
    found = mood_distillation_loss(student, torch.tensor([[-80.0, 80.0, 0.0]]), preset)
    found.backward()
    assert found.isfinite() and student.grad.isfinite().all()


def test_mix():
    task, distillation = torch.tensor(2.0), torch.tensor(5.0)
    assert distillation_mix(task, distillation, 0.0) == task
    assert distillation_mix(task, distillation, 1.0) == distillation
    assert distillation_mix(task, distillation, 0.8).item() == pytest.approx(0.8 * 5 + 0.2 * 2)


def test_task_losses_follow_the_published_formulas(logits, pairs):
    rates = np.linspace(0.01, 1, 56)
    labels = (logits[1] > 0).float()
    p, y = expit(logits[0].double().numpy()), labels.numpy()
    expected = (2 / (1 + 1 / rates)) * -(y * np.log(p) / rates + (1 - y) * np.log1p(-p))
    assert mood_loss(logits[0], labels, rates.tolist()).item() == pytest.approx(expected.mean(), rel=1e-4)
    assert valence_arousal_loss(*pairs).item() == pytest.approx(
        ((pairs[0] - pairs[1]).numpy() ** 2).mean(), rel=1e-6
    )
    quadrants = np.array([0, 1, 2, 3, 0, 2, 3])
    chances = softmax(logits[0][:7, :4].double().numpy(), axis=1)
    found = quadrant_loss(logits[0][:7, :4], torch.from_numpy(quadrants))
    assert found.item() == pytest.approx(-np.log(chances[np.arange(7), quadrants]).mean() / 2, rel=1e-5)


def test_tag_positive_rates():
    labels = torch.tensor([[1.0, 0, 1], [1, 0, torch.nan], [0, 0, 1], [0, 0, 1]])
    assert tag_positive_rates(labels) == [0.5, 0.125, 1.0]
    with pytest.raises(ValueError, match="1 of 3 tags"):
        tag_positive_rates(labels.index_fill(1, torch.tensor([1]), torch.nan))
