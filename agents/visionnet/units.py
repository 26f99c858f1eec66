"""Mean and spread of the labels of shards: the units of the heads, and the first baseline."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from steerlab.agents.visionnet.data import LABELS
from steerlab.agents.visionnet.labels import target
from steerlab.envs.shards.read import Shard
from steerlab.openpilot.contracts import Model

_SMALLEST = 1e-2  # of a spread: what never changes has none
_PROBABILITY = (0.02, 0.98)  # that a head says before it learns


def label_units(
    shards: Sequence[Shard], model: Model
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return mean and spread of the tensors of all heads, as ``VisionNet.set_units`` takes them.

    Of what is known only; where nothing is, the mean is 0 and the spread 1. Both courses of a mixture have the same spread and means that lie one
    spread apart, so that they can take different leads.
    """
    labels = {
        name: torch.as_tensor(np.concatenate([shard.read(name) for shard in shards]))
        for name in LABELS
    }
    mean: dict[str, Tensor] = {}
    scale: dict[str, Tensor] = {}
    for head in model.heads.values():
        if head.kind == "raw":
            continue
        values, known = target(head.name, labels)
        if head.kind == "mixture":  # of all selections
            values, known = values.flatten(0, 1), known.flatten(0, 1)
        middle, any_known = _mean(values, known), known.any(0)
        if head.kind == "sigmoid":
            mean[f"{head.name}_logits"] = middle.clamp(*_PROBABILITY).logit()
            continue
        if head.kind == "softmax":
            mean[f"{head.name}_logits"] = middle.clamp(min=_PROBABILITY[0]).log()
            continue
        spread = _mean((values - middle).square(), known).sqrt().clamp(min=_SMALLEST)
        spread = torch.where(any_known, spread, 1.0)
        if head.kind == "mixture":
            steps = torch.arange(head.hypotheses) - 0.5 * (head.hypotheses - 1)
            middle = middle + steps[:, None, None] * spread
            spread = spread.expand(head.hypotheses, *head.shape)
        mean[head.name], scale[head.name] = middle, spread
    return mean, scale


def _mean(values: Tensor, known: Tensor) -> Tensor:
    """Return the mean over the first axis of what is known, in float32."""
    count = known.sum(0).clamp(min=1)
    return ((values.double() * known).sum(0) / count).float()
