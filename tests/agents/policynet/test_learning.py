"""What a drive teaches: hindsight against known motion, the loss goes down, training resumes."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steerlab.agents.policynet import train
from steerlab.agents.policynet.evaluate import HARD
from steerlab.agents.policynet.losses import (
    hindsight,
    imitation_loss,
    lateral_bound,
    window_batch,
)
from steerlab.agents.policynet.model import PolicyNet, PolicySize
from steerlab.agents.policynet.rollout import FRAME, BehaviorMix, Rollout, collect
from steerlab.agents.policynet.train import ImitationConfig, load_policy, train_imitation
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.errors import InputError
from steerlab.openpilot.contracts import T_IDXS, plan_column

TINY = ImitationConfig(
    num_envs=6, steps=30, total_steps=2 * 6 * 30, batch_size=8, epochs=2.0, reduced=8, hidden=8,
    trunk=8,
)  # fmt: skip


def circle(steps: int, speed: float, yaw_rate: float) -> Rollout:
    """Return a drive of two rows that turns at a constant rate; row 1 begins anew at step 60."""
    t = 0.05 * np.arange(steps)
    frames = np.zeros((steps, 2, FRAME.size), np.float32)
    parts = FRAME.split(frames)
    radius = speed / yaw_rate
    parts["x"][:, :, 0] = (radius * np.sin(yaw_rate * t))[:, None]
    parts["y"][:, :, 0] = (radius * (1 - np.cos(yaw_rate * t)))[:, None]
    parts["yaw"][:, :, 0] = (yaw_rate * t)[:, None]
    parts["speed"][:], parts["yaw_rate"][:] = speed, yaw_rate
    first, last = np.zeros((steps, 2), int), np.full((steps, 2), steps - 1)
    first[60:, 1], last[:60, 1] = 60, 59
    return Rollout(
        torch.zeros(steps, 2, 512, dtype=torch.float16), torch.as_tensor(frames),
        torch.as_tensor(first), torch.as_tensor(last),
    )  # fmt: skip


def test_hindsight_of_a_circle() -> None:
    speed, rate = 10.0, 0.2
    plan, known = hindsight(circle(300, speed, rate), torch.tensor([40, 40]), torch.tensor([0, 1]))
    turned = rate * T_IDXS
    expected = {
        "x": speed / rate * np.sin(turned),
        "y": speed / rate * (1 - np.cos(turned)),
        "vx": speed * np.cos(turned),
        "vy": speed * np.sin(turned),
        "ax": -speed * rate * np.sin(turned),
        "ay": speed * rate * np.cos(turned),
        "yaw": turned,
        "yaw_rate": np.full(33, rate),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(plan[0, :, plan_column(name)], values, atol=5e-3)
    assert known[0].all()
    # Row 1 ends after 19 more steps.
    np.testing.assert_array_equal(known[1], T_IDXS <= 0.95 + 1e-3)


def small_network_on_a_circle() -> tuple[PolicyNet, Rollout]:
    """Return a network with random weights, and a drive whose features are noise."""
    torch.manual_seed(0)
    network = PolicyNet("openpilot-0.10.0", PolicySize(8, 8, 8))
    drive = circle(200, 10.0, 0.1)
    drive.features.normal_(generator=torch.Generator().manual_seed(0))
    return network, drive


def test_a_window_does_not_look_into_the_episode_before() -> None:
    network, drive = small_network_on_a_circle()
    at, rows = torch.tensor([70]), torch.tensor([1])

    def loss() -> float:
        return imitation_loss(network, drive, at, rows, torch.Generator().manual_seed(0))[
            "steer"
        ].item()

    before = loss()
    drive.features[:60] = 0.5
    assert loss() == before
    drive.features[62] = 0.5
    assert loss() != before


def test_a_smaller_knee_makes_small_errors_of_the_steering_weigh_more() -> None:
    network, drive = small_network_on_a_circle()
    at, rows = torch.tensor([150]), torch.tensor([1])

    def losses(off: float, weight: float, knee: float) -> dict[str, float]:
        generator = torch.Generator().manual_seed(0)
        seen = window_batch(network, drive, at, rows)
        changed = replace(drive, frames=drive.frames.clone())
        there = changed.frames[seen.at, seen.rows[:, None]]
        FRAME.split(there)["wanted"][..., 0] = seen.curvature + off * lateral_bound(network, seen)
        changed.frames[seen.at, seen.rows[:, None]] = there.detach()
        found = imitation_loss(network, changed, at, rows, generator, weight, knee)
        return {name: float(value.detach()) for name, value in found.items()}

    for knee in (0.5, 0.1):
        assert losses(0.04, 10.0, knee)["steer"] == pytest.approx(0.04**2 / (2 * knee), rel=1e-2)
        assert losses(2.0, 10.0, knee)["steer"] == pytest.approx(2.0 - knee / 2, rel=1e-3)
    light, heavy = losses(0.3, 10.0, 0.5), losses(0.3, 40.0, 0.5)
    assert heavy["loss"] - light["loss"] == pytest.approx(30.0 * light["steer"], rel=1e-3)


@pytest.mark.slow
def test_the_loss_goes_down_on_one_drive() -> None:
    torch.manual_seed(0)
    network = PolicyNet("openpilot-0.10.0", PolicySize(16, 16, 16))
    env = KinematicDriverVectorEnv(8, autoreset_mode="Disabled")
    teacher = train.preview_teacher(TINY)(env)
    drive = collect(network.eval(), env, teacher, 60, 3, BehaviorMix(teacher=1.0, noise=0.5))
    assert drive.figures["violations"] == 0  # the teacher drives well, disturbed or not
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    network.train()
    config = replace(TINY, batch_size=16)
    found = [train._update(network, optimizer, drive, config, generator) for _ in range(40)]
    first, last = ({n: np.mean([f[n] for f in part]) for n in found[0]}
                   for part in (found[:4], found[-4:]))  # fmt: skip
    for name in ("steer", "pedal", "now", "plan", "desire"):
        assert last[name] < first[name]
    assert last["loss"] < 0.6 * first["loss"]


@pytest.mark.slow
def test_a_share_of_the_drives_is_hard_and_disturbances_fade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays, noises = [], []
    original = train.collect

    def watch(network: PolicyNet, env: KinematicDriverVectorEnv, *rest: Any) -> Rollout:
        drive = original(network, env, *rest)
        delays.append(drive.frames[..., FRAME["car"].start + 1].min().item())
        noises.append(rest[3].noise)
        return drive

    monkeypatch.setattr(train, "collect", watch)
    config = replace(TINY, total_steps=4 * 6 * 30, noise=0.8, calm=0.0, film=0)
    train_imitation(config, tmp_path / "some")
    # The estimate of delay and smoothing, and the contract's own smoothing of 0.1 s.
    easiest = HARD.lateral_delay[0] + HARD.smoothing[0] - 0.05 + 0.1
    assert [delay > easiest - 1e-6 for delay in delays] == [False, True, False, True]
    np.testing.assert_allclose(noises, [0.8, 0.6, 0.4, 0.2])
    lines = [
        json.loads(line) for line in (tmp_path / "some/metrics.jsonl").read_text().splitlines()
    ]
    assert ["hard/cte_mean" in line for line in lines[:4]] == [False, True, False, True]

    delays.clear()
    train_imitation(replace(config, hard=0.0), tmp_path / "none")
    assert len(delays) == 4
    assert min(delays) < easiest - 0.05


@pytest.mark.slow
def test_training_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_imitation(TINY, tmp_path / "whole")
    original, calls = train.collect, 0

    def stop_at_the_second(*arguments: object, **more: object) -> Rollout:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return original(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "collect", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        train_imitation(TINY, tmp_path / "parts")
    monkeypatch.setattr(train, "collect", original)
    resumed = train_imitation(TINY, tmp_path / "parts")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    lines = [(tmp_path / f / "metrics.jsonl").read_text() for f in ("whole", "parts")]
    assert lines[0] == lines[1]
    loaded = load_policy(tmp_path / "whole" / "policy_model.pth")
    for a, b in zip(whole.parameters(), loaded.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"total_steps": 10}, "less than one iteration"),
        ({"noise": 2.0}, "noise=2.0"),
        ({"hard": -0.5}, "hard=-0.5"),
        ({"lateral": math.nan}, "lateral"),
        ({"hidden": 0}, "hidden=0"),
        ({"steer_weight": 0.0}, "steer_weight=0.0"),
        ({"steer_knee": math.inf}, "steer_knee=inf"),
    ],
)
def test_bad_options(tmp_path: Path, change: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        train_imitation(replace(TINY, **change), tmp_path)  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


def test_no_policy_in_the_file(tmp_path: Path) -> None:
    torch.save({"x": 1}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="not a steerlab checkpoint"):
        load_policy(tmp_path / "a.pth")
