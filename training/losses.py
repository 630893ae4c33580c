"""Losses of training: the tasks' own (from the model) and those of distillation, all pure functions.

Method: Kang & Herremans (2025, arXiv 2502.03979), with two presets of what a student takes over from its teacher:

- `"default"`: a Bernoulli KL for each tag, the mean squared error of [valence, arousal]. Tags are not exclusive, and
  both numbers of a pair matter.
- `"paper"`: as published, a softmax KL over all tags, and over the pair (which only constrains valence - arousal).
"""

from torch import nn

from ..modeling_mer import _mean_of_known, mood_loss, quadrant_loss, valence_arousal_loss

PRESETS = ("default", "paper")


def bernoulli_distillation_loss(logits, teacher_logits, temperature=1.0):
    """Mean over tags of KL(teacher || student), each tag a Bernoulli distribution, times `temperature**2`.

    Its gradient is that of cross-entropy with the teacher's probabilities as labels: it has the scale of `mood_loss`.

    Args:
        logits (`torch.FloatTensor` of shape `(B, tags)`): the student's.
        teacher_logits (`torch.FloatTensor` of shape `(B, tags)`): the teacher's; NaN = unknown, left out.
        temperature (`float`, *optional*, defaults to 1): divides both; the square keeps the gradient's scale (Hinton
            et al., 2015, arXiv 1503.02531).
    """
    # Cross-entropy less entropy: stays finite where a sigmoid saturates, unlike torch.distributions.
    probabilities = (teacher_logits / temperature).sigmoid()
    cross_entropy = mood_loss(logits / temperature, probabilities)
    entropy = mood_loss(teacher_logits.nan_to_num() / temperature, probabilities)
    return (cross_entropy - entropy) * temperature**2


def softmax_distillation_loss(values, teacher_values, temperature=1.0):
    """Mean over the batch of KL(softmax(teacher) || softmax(student)), times `temperature**2`, as published.

    Args:
        values (`torch.FloatTensor` of shape `(B, n)`): the student's logits of tags, or its [valence, arousal].
        teacher_values (`torch.FloatTensor` of shape `(B, n)`): the teacher's; a row with NaN is left out.
        temperature (`float`, *optional*, defaults to 1): divides both.
    """
    known = ~teacher_values.isnan().any(dim=-1)
    divergence = nn.functional.kl_div(
        nn.functional.log_softmax(values.float() / temperature, dim=-1),
        nn.functional.log_softmax(teacher_values.nan_to_num().float() / temperature, dim=-1),
        reduction="none",
        log_target=True,
    ).sum(dim=-1)
    return _mean_of_known(divergence, known) * temperature**2


def mood_distillation_loss(logits, teacher_logits, preset="default", temperature=1.0):
    """What a student's tags (B, tags) miss of its teacher's, both as logits; see [`PRESETS`]."""
    loss = softmax_distillation_loss if preset == "paper" else bernoulli_distillation_loss
    return loss(logits, teacher_logits, temperature)


def valence_arousal_distillation_loss(predicted, teacher_predicted, preset="default", temperature=1.0):
    """What a student's [valence, arousal] (B, 2) miss of its teacher's, on one scale; see [`PRESETS`].

    The temperature belongs to distributions, so only the preset `"paper"` has a use for it.
    """
    if preset == "paper":
        return softmax_distillation_loss(predicted, teacher_predicted, temperature)
    return valence_arousal_loss(predicted, teacher_predicted)


def distillation_mix(task, distillation, alpha):
    """`alpha * distillation + (1 - alpha) * task`: the published mix, alpha 0.8."""
    return alpha * distillation + (1 - alpha) * task


def tag_positive_rates(labels):
    """Share of tracks that carry each tag, for `MERConfig.tag_positive_rates`.

    A tag without a positive gets the rate of one half positive, since the published weights divide by the rate.

    Args:
        labels (`torch.FloatTensor` of shape `(N, tags)`): 1 = the tag holds, 0 = not; NaN = unknown, left out.

    Returns:
        `list[float]`, one rate a tag, in (0, 1].

    Raises:
        ValueError: a tag of which no track knows anything.
    """
    known = (~labels.isnan()).sum(dim=0)
    if (known == 0).any():
        raise ValueError(f"{int((known == 0).sum())} of {labels.shape[1]} tags have no label in any track.")
    return (labels.nan_to_num().sum(dim=0).clamp(min=0.5) / known).tolist()


__all__ = [
    "PRESETS",
    "bernoulli_distillation_loss",
    "distillation_mix",
    "mood_distillation_loss",
    "mood_loss",
    "quadrant_loss",
    "softmax_distillation_loss",
    "tag_positive_rates",
    "valence_arousal_distillation_loss",
    "valence_arousal_loss",
]
