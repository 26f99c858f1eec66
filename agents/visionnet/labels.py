"""Labels of shards as the heads of a contract hold them: targets of losses, and whole outputs."""

from collections.abc import Mapping

import torch
from torch import Tensor

from steerlab.openpilot.contracts import X_IDXS, Head, Model
from steerlab.openpilot.outputs import pack

#: Largest distance to the side (m) at each of ``X_IDXS``: two lanes and more beside the car, and what the
#: wide camera sees, 29 degrees to both sides.
REACH = 10.0 + 0.56 * X_IDXS
_LEAST = 2e-5  # probability that a logit stands for; the consumer's exponential ends at e^11
#: The label that says how much of a head's label is known; the others are known completely.
_KNOWN = {
    "lane_lines": "lane_lines_valid",
    "road_edges": "road_edges_valid",
    "lead": "lead_valid",
    "lead_prob": "lead_prob_valid",
    "desire_pred": "desire_pred_valid",
    "meta": "meta_valid",
}


def target(head: str, labels: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return what a head should say, and where that is known (bool, of the same shape).

    The lead is (B, 3, 6, 4) whatever the head's form. ``lane_lines_prob`` has eight values of which
    openpilot reads the odd ones; the even ones are the probability of the contrary. Of lines and edges
    only what lies within :data:`REACH` counts: a road that turns off squarely has lines 190 m to the
    side of a point 30 m ahead, which no picture shows.
    """
    values = labels[head]
    if head == "lane_lines_prob":
        values = torch.stack([1.0 - values, values], dim=-1).flatten(1)
    if head not in _KNOWN:
        return values, torch.ones_like(values, dtype=torch.bool)
    known = labels[_KNOWN[head]].bool()
    if head in ("lane_lines", "road_edges"):
        known = known & (values[..., 0].abs() <= torch.as_tensor(REACH).to(values))
    while known.ndim < values.ndim:
        known = known[..., None]
    return values, known.expand_as(values)


def encode(model: Model, labels: Mapping[str, Tensor], log_std: float = -3.0) -> Tensor:
    """Return the flat output (B, N) of a network that says exactly the labels; features are zero.

    A lead of 102 values holds two courses only: the first is that of the lead now, the second that of
    the lead in 4 s, and the lead in 2 s is whichever is nearer to it.

    Args:
        model: Vision network of a contract.
        labels: Of B frames, as in shards.
        log_std: What it says of its own errors.
    """
    tensors: dict[str, Tensor] = {}
    for head in model.heads.values():
        if head.kind == "raw":
            tensors[head.name] = torch.zeros(len(labels["pose"]), *head.shape)
            continue
        values, known = target(head.name, labels)
        if head.kind == "gaussian":
            tensors[head.name] = values.float()
        elif head.kind == "mixture":
            tensors |= _two_courses(head, values, known)
        elif head.kind == "sigmoid":
            tensors[f"{head.name}_logits"] = values.float().logit(_LEAST)
        else:
            tensors[f"{head.name}_logits"] = values.clamp(min=_LEAST).log()
        if (spread := f"{head.name}_log_std") in head.tensors:
            tensors[spread] = torch.full_like(tensors[head.name], log_std)
    return pack(model, tensors)


def _two_courses(head: Head, lead: Tensor, known: Tensor) -> dict[str, Tensor]:
    """Return the tensors of the lead as a mixture, (B, 2, 6, 4) and (B, 2, 3), without log-stds."""
    courses = lead[:, [0, -1]]
    away = ((lead[:, :, None] - courses[:, None]).abs() * known[:, :, None]).sum((-1, -2))
    nearer = away.argmin(dim=2)  # (B, selections)
    chosen = torch.nn.functional.one_hot(nearer, head.hypotheses).transpose(1, 2).float()
    return {head.name: courses, f"{head.name}_logits": chosen.clamp(min=_LEAST).log()}
