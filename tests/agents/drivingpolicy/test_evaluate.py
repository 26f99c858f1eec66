"""Displacements, baselines and closed-loop figures against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from steerlab.agents.drivingpolicy.closed_loop import (
    Course,
    bootstrap,
    drive_figures,
    ratio,
    said_label,
)
from steerlab.agents.drivingpolicy.data import Windows, true_features
from steerlab.agents.drivingpolicy.evaluate import constant_turn, displacements, plan_errors
from steerlab.envs.carla_driver.env import VIOLATIONS
from steerlab.envs.carla_driver.scenarios import as_scenario
from steerlab.envs.kinematic_driver.record import Record
from steerlab.envs.kinematic_driver.roads import START
from steerlab.openpilot.contracts import T_IDXS
from tests.agents.drivingpolicy.episodes import invented


def test_displacement_in_between_is_linear() -> None:
    plans = torch.zeros(1, 1, 33, 2)
    plans[..., 0] = torch.as_tensor(3.0 * T_IDXS)
    plans[..., 1] = torch.as_tensor(4.0 * T_IDXS)
    away = displacements(plans, torch.zeros(1, 1, 33, 2))[0, 0]
    torch.testing.assert_close(away, 5.0 * torch.arange(1, 41) * 0.1)


def test_constant_turn_drives_a_circle() -> None:
    batch = {
        "car": torch.tensor([[10.0, 0.2], [10.0, 0.2]]),
        "now": torch.tensor([[0, 0.2], [0, 0.0]]),
    }
    plans, logits = constant_turn(batch)
    t = T_IDXS
    np.testing.assert_allclose(plans[0, 0, :, 0], 50 * np.sin(0.2 * t), atol=1e-4)
    np.testing.assert_allclose(plans[0, 0, :, 1], 50 * (1 - np.cos(0.2 * t)), atol=1e-4)
    np.testing.assert_allclose(plans[1, 0], np.stack([10 * t, 0 * t], 1), atol=1e-4)
    assert logits.shape == (2, 1)


def test_errors_are_of_the_likeliest_and_of_the_best() -> None:
    data = Windows([invented(0, frames=6)])

    def planner(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        truth = batch["plan"][..., :2]
        beside = truth + torch.tensor([0.0, 3.0])
        return torch.stack([truth, beside], 1), torch.tensor([[0.0, 1.0]]).repeat(len(truth), 1)

    found = plan_errors(planner, data)
    for seconds in ("2s", "4s"):
        assert found[f"ade_{seconds}"] == found[f"fde_{seconds}"] == pytest.approx(3.0, abs=1e-5)
        assert found[f"best_ade_{seconds}"] == found[f"best_fde_{seconds}"] == 0.0


def test_labels_that_end_early_do_not_count() -> None:
    whole, early = (
        Windows([invented(0, 6)]),
        Windows([invented(0, 6, reach=int(np.sum(T_IDXS < 3)))]),
    )

    def planner(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return batch["plan"][:, None, :, :2] + 1.0, torch.zeros(len(batch["plan"]), 1)

    assert math.isfinite(plan_errors(planner, whole)["fde_4s"])
    found = plan_errors(planner, early)
    assert math.isnan(found["fde_4s"])
    assert found["fde_2s"] == pytest.approx(math.sqrt(2), abs=1e-5)


def test_windows_are_what_the_runner_hands_over() -> None:
    first, second = invented(0, 30), invented(1, 30)
    data = Windows([first, second])
    batch = data[torch.tensor([0, 29, 31])]
    features = batch["features"].numpy()
    assert not features[0, :24].any()
    np.testing.assert_array_equal(features[0, 24], first.features[0])
    np.testing.assert_array_equal(features[1], first.features[5:30])
    assert not features[2, :23].any()  # nothing of the episode before
    np.testing.assert_array_equal(features[2, 23:], second.features[:2])


def test_true_features_tell_the_labels() -> None:
    shard = invented(0, 5).shard
    rng = np.random.default_rng(0)
    shapes = {"lane_lines": (4, 33, 2), "lane_lines_prob": (4,), "road_edges": (2, 33, 2),
              "lead": (3, 6, 4), "lead_prob": (3,), "pose": (6,)}  # fmt: skip
    for name, shape in shapes.items():
        shard.arrays[name] = rng.normal(size=(5, *shape)).astype(np.float32)  # type: ignore[attr-defined]
    for name in ("lane_lines", "road_edges", "lead"):
        shard.arrays[f"{name}_valid"] = np.ones((5, *shapes[name][:-1]), bool)  # type: ignore[attr-defined]
    one = true_features(shard)
    assert one.shape == (5, 512)
    shard.arrays["pose"][2] += 1.0  # type: ignore[attr-defined]
    assert np.flatnonzero(np.abs(true_features(shard) - one).max(1)).tolist() == [2]


def record(metres: list[float], violations: list[str], steps: int = 100) -> Record:
    count = len(metres)
    offset = np.full((steps, count), 0.2, np.float32)
    for row, kind in enumerate(violations):
        if kind:
            offset[60:, row] = np.nan
    end = {
        "s": np.array(metres) + START, "violation": np.array([VIOLATIONS.index(k) if k else 0 for k in violations]),
        "progress": np.full(count, 50.0),
    }  # fmt: skip
    return Record(offset, offset, offset, offset, end)


def test_metres_per_violation() -> None:
    figures = drive_figures(record([100, 300, 200], ["boundary", "", "collision"]))
    assert figures.km == pytest.approx(0.6)
    assert (figures.violations, figures.by_kind) == (2, {"boundary": 1, "collision": 1})
    assert figures.metres_per_violation == pytest.approx(300.0)
    assert figures.interval[0] < 300 < figures.interval[1]
    assert figures.lane_kept == pytest.approx((100 + 60 + 60) / 300)
    assert figures.cte_p95_steady == math.inf  # forty of a hundred steps were cut off
    none = drive_figures(record([100, 300], ["", ""]))
    assert none.metres_per_violation == math.inf
    assert none.as_dict()["metres_per_violation"] is None


def test_the_interval_narrows_with_the_episodes() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for count in (20, 400):
        failed, metres = rng.random(count) < 0.5, rng.uniform(50, 150, count)
        low, high = bootstrap(metres, failed)
        assert low < ratio(metres, failed) < high
        widths.append(high - low)
    assert widths[1] < 0.5 * widths[0]


def test_what_is_said_is_drawn_as_labels_are() -> None:
    outputs = {
        "lane_lines": np.zeros((1, 4, 33, 2)), "lane_lines_prob": np.arange(8.0)[None],
        "road_edges": np.zeros((1, 2, 33, 2)), "lead": np.zeros((1, 3, 6, 4)),
        "lead_prob": np.zeros((1, 3)), "plan": np.zeros((1, 33, 15)),
    }  # fmt: skip
    label = said_label(outputs)
    assert label["lane_lines_prob"].tolist() == [1, 3, 5, 7]
    assert label["plan_valid"].all()
    course = Course(as_scenario("country_road"), traffic=0, steps=60)
    assert course.env().traffic == 0


def test_windows_in_the_mirror_turn_the_other_way() -> None:
    seen = invented(3)
    plain, mirrored = Windows([seen]).parts, Windows([seen._replace(mirrored=True)]).parts
    assert plain["command"][:, 0].abs().min() > 0
    np.testing.assert_array_equal(mirrored["command"][:, 0], -plain["command"][:, 0])
    np.testing.assert_array_equal(mirrored["command"][:, 1], plain["command"][:, 1])
    np.testing.assert_array_equal(mirrored["now"][:, 1], -plain["now"][:, 1])
    np.testing.assert_array_equal(mirrored["traffic"], plain["traffic"].flip(1))
    np.testing.assert_array_equal(mirrored["plan"][..., 1], -plain["plan"][..., 1])
    np.testing.assert_array_equal(mirrored["plan"][..., 0], plain["plan"][..., 0])
