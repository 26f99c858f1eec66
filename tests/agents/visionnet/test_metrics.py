"""The figures: errors that were put in come out, and the baselines see nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from steerlab.agents.visionnet import data, metrics
from steerlab.agents.visionnet.labels import encode
from steerlab.agents.visionnet.network import VisionNet
from steerlab.agents.visionnet.units import label_units
from steerlab.openpilot.contracts import contract


def labels(shards: Path) -> dict[str, torch.Tensor]:
    shard = data.find(shards, "x")[0][1]
    return {name: torch.as_tensor(shard.read(name)) for name in data.LABELS}


def test_errors_that_are_put_in_come_out(shards: Path) -> None:
    given, model = labels(shards), contract("openpilot-0.10.0").model("driving_vision")
    said = {name: values.clone() for name, values in given.items()}
    said["lane_lines"][:, 1, :, 0] += 0.3  # left line of the own lane
    said["lane_lines"][:, 0, :, 0] += 5.0  # hardly to be seen, so it does not count
    said["lane_lines"][:, :, 13:, 0] += 9.0  # beyond 30 m: 192 (13 / 32)^2 = 31.7
    said["lead"][..., 0] += 4.0
    said["pose"][:, 0] -= 2.0
    said["road_transform"][:, 2] += 0.05
    tally = metrics.Tally()
    known = {name: values.numpy() for name, values in given.items()}
    flat = encode(model, said).numpy()
    for rows in (slice(0, 5), slice(5, None)):  # in two batches
        part = {name: values[rows] for name, values in known.items()}
        tally.add(metrics.errors(model.slices, flat[rows], part))
    found = tally.figures()
    assert found["lane_error"] == pytest.approx(0.15, abs=1e-4)  # one line of the two that are seen
    assert found["lane_error_p95"] == pytest.approx(0.3, abs=1e-4)
    assert found["lead_error"] == found["lead_error_median"] == pytest.approx(4.0, abs=1e-4)
    assert found["speed_error"] == pytest.approx(2.0, abs=1e-5)
    assert found["height_error"] == pytest.approx(0.05, abs=1e-5)
    assert found["edge_error"] < 1e-6
    assert found["lane_auc"] == 1.0
    assert np.isnan(found["lead_auc"])  # there is one in all frames


def test_area_under_the_curve_counts_pairs_in_the_right_order() -> None:
    rng = np.random.default_rng(0)
    scores = np.stack([np.round(rng.random(60), 1), rng.integers(0, 2, 60)], 1)
    ones, zeros = scores[scores[:, 1] == 1, 0], scores[scores[:, 1] == 0, 0]
    wins = [(a > b) + 0.5 * (a == b) for a in ones for b in zeros]
    assert metrics.area_under_curve(scores) == pytest.approx(np.mean(wins))


def test_baselines_are_the_mean_and_straight_lines(shards: Path, mini: str) -> None:
    found = data.find(shards, "x")[0]
    network = VisionNet(mini)
    network.set_units(*label_units(found, network.model))
    pairs = data.FramePairs(found)
    results = metrics.judge(network, data.loader(pairs, data.in_order(pairs, 7), 0))
    assert set(results) == {"network", "training mean", "straight lines"}
    lines = np.concatenate([s.read("lane_lines") for s in found])
    known = np.concatenate([s.read("lane_lines_valid") for s in found])
    own = np.abs(lines - lines.mean(0))[:, 1:3, :13, 0][known[:, 1:3, :13]]
    assert results["training mean"]["lane_error"] == pytest.approx(own.mean(), rel=1e-3)
    width = (lines[:, 2, 0, 0] - lines[:, 1, 0, 0]).mean()
    straight = np.array([-0.5, 0.5])[:, None] * width
    away = np.abs(lines[:, 1:3, :13, 0] - straight)[known[:, 1:3, :13]]
    assert results["straight lines"]["lane_error"] == pytest.approx(away.mean(), rel=1e-3)
    drawn = metrics.table(results, "x")
    assert len(drawn.rows) == len(metrics.FIGURES)
