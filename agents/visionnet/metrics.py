"""How far the heads are from the labels, in metres and probabilities, beside two that see nothing.

All is read from the flat output as the consumer reads it. The two baselines are the mean of the
training's labels, and straight lines: lanes of the mean width, flat and parallel to the car up to the
horizon, with the car in the middle of its own.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from rich.table import Table
from scipy.stats import rankdata
from torch import Tensor

from steerlab.agents.visionnet.labels import REACH
from steerlab.agents.visionnet.losses import vision_losses
from steerlab.agents.visionnet.network import VisionNet
from steerlab.openpilot.contracts import X_IDXS, Model
from steerlab.openpilot.outputs import pack, parse
from steerlab.types import Array

NEAR = X_IDXS <= 30.0  # m ahead
SEEN = 0.5  # label of a probability from which something counts as there
NETWORK, MEAN, STRAIGHT = "network", "training mean", "straight lines"


@dataclass(frozen=True)
class Figure:
    """A row of the table: what is measured, its unit, and how it follows from the collected values."""

    title: str
    values: str  # name of what :func:`errors` returns
    of: Callable[[Array], float] = np.mean
    digits: int = 3


def _late(values: Array) -> float:
    return float(np.percentile(values, 95))


def area_under_curve(scores: Array) -> float:
    """Return the probability that a positive is ranked above a negative, ties counting half.

    Args:
        scores: (K, 2): what is said, and whether it is so.
    """
    there = scores[:, 1] > SEEN
    positives, negatives = int(there.sum()), int((~there).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(scores[:, 0])[there].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


FIGURES = {
    "lane_error": Figure("lane lines 0-30 m, mean error, m", "lane"),
    "lane_error_p95": Figure("lane lines 0-30 m, 95 % within, m", "lane", _late),
    "own_lane_error": Figure("lines of the own lane 0-30 m, mean error, m", "own_lane"),
    "edge_error": Figure("road edges 0-30 m, mean error, m", "edge"),
    "lane_auc": Figure("lane line there or not, area under ROC", "lane_prob", area_under_curve),
    "lead_error": Figure("lead, mean error of the distance, m", "lead", digits=2),
    "lead_error_median": Figure(
        "lead, median error of the distance, m", "lead", lambda v: float(np.median(v)), 2
    ),
    "lead_speed_error": Figure("lead, mean error of the speed, m/s", "lead_speed", digits=2),
    "lead_auc": Figure("lead there or not, area under ROC", "lead_prob", area_under_curve),
    "speed_error": Figure("own speed, mean error, m/s", "speed", digits=2),
    "yaw_rate_error": Figure("own yaw rate, mean error, rad/s", "yaw_rate", digits=4),
    "height_error": Figure("height of the device, mean error, m", "height"),
    "angle_error": Figure("angle between the cameras, mean error, rad", "angle", digits=4),
    "desire_surprise": Figure("desire in 2 .. 8 s, cross-entropy, nats", "desire"),
    "meta_surprise": Figure("pedals, blinkers, braking, cross-entropy, nats", "meta"),
}


def errors(
    slices: Mapping[str, slice], flat: Array, labels: Mapping[str, Array]
) -> dict[str, Array]:
    """Return what :data:`FIGURES` are made of for B frames, each (K,) or (K, 2).

    Lane lines count where the label says that they can be seen (probability above one half), edges and
    leads where they are known, lines and edges within ``REACH`` of the labels.

    Args:
        slices: Places of the heads.
        flat: Outputs (B, N).
        labels: As in shards.
    """
    said = parse(slices, flat)

    def sideways(head: str, known: Array) -> Array:
        known = known & (np.abs(labels[head][..., 0]) <= REACH)
        away = np.abs(said[head] - labels[head])[..., NEAR, 0]
        return np.asarray(np.where(known[..., NEAR], away, np.nan))

    seen = labels["lane_lines_valid"].astype(bool) & (labels["lane_lines_prob"] > SEEN)[..., None]
    lane = sideways("lane_lines", seen)
    there = (labels["lead_prob"][:, 0] > SEEN) & labels["lead_valid"][:, 0, 0].astype(bool)
    off = np.abs(said["lead"] - labels["lead"])[there, 0, 0]  # x, y, v, a of the lead now
    known = labels["lead_prob_valid"].astype(bool)
    pose = np.abs(said["pose"] - labels["pose"])
    return {
        "lane": _known(lane),
        "own_lane": _known(lane[:, 1:3]),
        "edge": _known(sideways("road_edges", labels["road_edges_valid"].astype(bool))),
        "lane_prob": _scores(said["lane_lines_prob"][:, 1::2], labels["lane_lines_prob"]),
        "lead": off[:, 0],
        "lead_speed": off[:, 2],
        "lead_prob": _scores(said["lead_prob"][known], labels["lead_prob"][known]),
        "speed": pose[:, 0],
        "yaw_rate": pose[:, 5],
        "height": np.abs(said["road_transform"] - labels["road_transform"])[:, 2],
        "angle": np.abs(said["wide_from_device_euler"] - labels["wide_from_device_euler"]).ravel(),
        "desire": _surprise_of_choice(
            said["desire_pred"], labels["desire_pred"], labels["desire_pred_valid"].astype(bool)
        ),
        "meta": _surprise(said["meta"], labels["meta"])[labels["meta_valid"].astype(bool)],
    }


def _known(values: Array) -> Array:
    return values[np.isfinite(values)]


def _scores(said: Array, labels: Array) -> Array:
    return np.stack([said.ravel(), labels.ravel()], axis=1)


def _surprise(said: Array, labels: Array) -> Array:
    said = np.clip(said, 1e-6, 1 - 1e-6)
    return np.asarray(-(labels * np.log(said) + (1 - labels) * np.log(1 - said)))


def _surprise_of_choice(said: Array, labels: Array, known: Array) -> Array:
    return np.asarray(-(labels * np.log(np.clip(said, 1e-6, 1.0))).sum(-1)[known])


@dataclass
class Tally:
    """Collects the values of many batches; they are numbers, never outputs or pictures."""

    parts: dict[str, list[Array]] = field(default_factory=dict)

    def add(self, values: Mapping[str, Array]) -> None:
        """Take the values of a batch, as :func:`errors` returns them."""
        for name, part in values.items():
            self.parts.setdefault(name, []).append(part.astype(np.float32))

    def figures(self) -> dict[str, float]:
        """Return every figure of :data:`FIGURES`; NaN where there was nothing to measure."""
        found = {}
        for name, figure in FIGURES.items():
            values = np.concatenate(self.parts.get(figure.values, [np.empty(0)]))
            found[name] = float(figure.of(values)) if len(values) else float("nan")
        return found


def baselines(network: VisionNet) -> dict[str, Array]:
    """Return the outputs (N,) of the two baselines, from the units of a network."""
    means = {n: t.clone() for n, t in network.means.items()}
    mean = _flat(network.model, means)
    lines, edges = means["lane_lines"], means["road_edges"]
    width = lines[2, 0, 0] - lines[1, 0, 0]
    lines[..., 0] = width * torch.tensor([-1.5, -0.5, 0.5, 1.5])[:, None]
    edges[..., 0] = edges[:, :1, 0]
    for part in (lines, edges):
        part[..., 1] = means["road_transform"][2]
    return {MEAN: mean, STRAIGHT: _flat(network.model, means)}


def _flat(model: Model, tensors: Mapping[str, Tensor]) -> Array:
    features = {n: torch.zeros(1, *s) for n, s in model.heads["hidden_state"].tensors.items()}
    rows = {name: values[None].float().cpu() for name, values in tensors.items()}
    return np.asarray(pack(model, rows | features)[0])


@torch.no_grad()
def judge(
    network: VisionNet,
    batches: Iterable[Mapping[str, Tensor]],
    likelihood: str = "laplace",
    blind: bool = True,
) -> dict[str, dict[str, float]]:
    """Return the figures of a network, and ``loss``; and those of both baselines.

    Args:
        network: Evaluated in evaluation mode; its mode stays.
        batches: Labelled pairs, as a loader of :mod:`steerlab.agents.visionnet.data` gives them.
        likelihood: Of the loss.
        blind: Judge the baselines too.
    """
    training, device, slices = network.training, network.mean.device, network.model.slices
    network.eval()
    constants = baselines(network) if blind else {}
    tallies = {name: Tally() for name in (NETWORK, *constants)}
    lost, count = 0.0, 0
    for batch in batches:
        moved = {name: values.to(device) for name, values in batch.items()}
        said = network.tensors(moved["img"], moved["big_img"])
        losses = vision_losses(network.model, said, moved, network.units, likelihood)
        flat = pack(network.model, said).float().cpu().numpy()
        labels = {n: v.numpy() for n, v in batch.items() if n not in ("img", "big_img")}
        lost, count = lost + float(losses["loss"]) * len(flat), count + len(flat)
        tallies[NETWORK].add(errors(slices, flat, labels))
        for name, constant in constants.items():
            tallies[name].add(errors(slices, np.broadcast_to(constant, flat.shape), labels))
    network.train(training)
    results = {name: tally.figures() for name, tally in tallies.items()}
    results[NETWORK]["loss"] = lost / max(count, 1)
    return results


def table(results: Mapping[str, Mapping[str, float]], title: str) -> Table:
    """Return the table of :func:`judge`'s figures, a column for each of who was judged."""
    drawn = Table("", *results, title=title)
    for name, figure in FIGURES.items():
        drawn.add_row(
            figure.title, *(f"{found[name]:.{figure.digits}f}" for found in results.values())
        )
    return drawn
