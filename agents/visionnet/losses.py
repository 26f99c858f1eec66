"""What the heads lose: likelihoods in units of the labels' own spread, cross-entropies.

A Gaussian head loses the negative logarithm of a likelihood, Laplace's by default, whose median
outliers do not move; the spread is the standard deviation of the contract's log-std. Divided
by the spread of the labels, heads in metres, radians and metres per second weigh alike. What is not
known of a label counts in no loss.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from steerlab.agents.visionnet.labels import target
from steerlab.errors import unknown_name
from steerlab.openpilot.contracts import Head, Model

LIKELIHOODS = ("laplace", "gaussian")
#: What a head counts in the sum; the others count 1.
WEIGHTS = {"lane_lines": 3.0, "road_edges": 1.0, "meta": 0.5, "desire_pred": 0.5}


def vision_losses(
    model: Model,
    said: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    units: Mapping[str, Tensor],
    likelihood: str = "laplace",
) -> dict[str, Tensor]:
    """Return the loss of every head, and ``loss``, their weighted sum.

    Args:
        model: Vision network of a contract.
        said: Named tensors of its heads, each (B, *shape).
        labels: Of the B frames, as in shards.
        units: Spread of the labels for each tensor of a Gaussian head, by its name.
        likelihood: Of :data:`LIKELIHOODS`.

    Raises:
        InputError: The likelihood is unknown.
    """
    if likelihood not in LIKELIHOODS:
        raise unknown_name("likelihood", likelihood, LIKELIHOODS)
    losses: dict[str, Tensor] = {}
    for head in model.heads.values():
        if head.kind != "raw":
            values, known = target(head.name, labels)
            losses[head.name] = _head_loss(head, said, values, known, units, likelihood)
    total = sum(WEIGHTS.get(name, 1.0) * value for name, value in losses.items())
    assert isinstance(total, Tensor)
    return {"loss": total, **losses}


def _head_loss(
    head: Head,
    said: Mapping[str, Tensor],
    values: Tensor,
    known: Tensor,
    units: Mapping[str, Tensor],
    likelihood: str,
) -> Tensor:
    """Return the mean loss of one head over what is known of its label."""
    if head.kind == "sigmoid":
        logits = said[f"{head.name}_logits"]
        return _mean(binary_cross_entropy_with_logits(logits, values, reduction="none"), known)
    if head.kind == "softmax":
        surprise = -said[f"{head.name}_logits"].log_softmax(-1) * values
        return _mean(surprise.sum(-1), known[..., 0])
    mean, log_std = said[head.name], said[f"{head.name}_log_std"]
    if head.kind == "gaussian":
        return _mean(_surprise(mean, log_std, values, units[head.name], likelihood), known)
    # (B, hypotheses, selections, *shape): every course against the lead of every selection.
    each = _surprise(
        mean[:, :, None],
        log_std[:, :, None],
        values[:, None],
        units[head.name][:, None],
        likelihood,
    )
    each = (each * known[:, None]).flatten(3).sum(-1)
    weights = said[f"{head.name}_logits"].log_softmax(1)
    whole = -torch.logsumexp(weights - each, dim=1)  # (B, selections)
    count = known.flatten(2).sum(-1)
    return _mean(whole / count.clamp(min=1), count > 0)


def _surprise(
    mean: Tensor, log_std: Tensor, values: Tensor, unit: Tensor, likelihood: str
) -> Tensor:
    """Return the negative log-likelihood of values, but for a constant, in units of their spread."""
    apart = (values - mean) * torch.exp(-log_std)
    cost = math.sqrt(2.0) * apart.abs() if likelihood == "laplace" else 0.5 * apart.square()
    return cost + log_std - unit.log()


def _mean(values: Tensor, known: Tensor) -> Tensor:
    """Return the mean of what is known; zero if nothing is."""
    return (values * known).sum() / known.sum().clamp(min=1)
