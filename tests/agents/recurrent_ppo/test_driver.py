"""A trained recurrent driver: rows begin anew on their own, it teaches a window policy."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerlab.agents.checkpoint import save_checkpoint
from steerlab.agents.policynet.train import ImitationConfig, train_imitation
from steerlab.agents.recurrent_ppo.driver import PolicyDriver
from steerlab.agents.recurrent_ppo.train import (
    DriverConfig,
    load_driver,
    make_driver_env,
    train_driver,
)
from steerlab.agents.sb3 import KIND
from steerlab.envs.kinematic_driver import dynamics
from steerlab.envs.kinematic_driver.numpy_backend import NUMPY
from steerlab.errors import InputError


@pytest.fixture(scope="module", params=["lstm", "gru"])
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    config = DriverConfig(
        total_steps=80, num_envs=2, episode_steps=40, batch_size=80, epochs=1, hidden=8,
        cell=request.param, alpha=0.5,
    )  # fmt: skip
    train_driver(config, path)
    return path


def test_rows_begin_anew_on_their_own(folder: Path) -> None:
    model, threshold = load_driver(folder)
    env = make_driver_env(3, 40, "NextStep", alpha=0.5, threshold=threshold)
    plain = env.env
    observation, info = plain.reset(seed=0)
    teacher = PolicyDriver(model, 3, threshold)
    teacher.reset(observation, info)
    for _ in range(4):
        teacher(observation, info)
    before = teacher.states[0].copy()
    teacher.reset(observation, info, np.array([False, True, False]))
    curvature, pedal = teacher.propose(info, observation)
    fresh = PolicyDriver(model, 3, threshold)
    fresh.reset(observation, info)
    actions = fresh(observation, info)
    told = np.stack([curvature, pedal], 1)
    expected = np.stack(dynamics.decode_action(NUMPY, actions, info["speed"]), 1)
    np.testing.assert_allclose(told[1], expected[1], rtol=1e-5, atol=1e-7)
    assert not np.allclose(told[0], expected[0], rtol=1e-5, atol=1e-7)
    assert not np.array_equal(before, teacher.states[0])


def test_budget_and_time_are_those_of_the_start(folder: Path) -> None:
    model, threshold = load_driver(folder)
    env = make_driver_env(3, 40, "NextStep", alpha=0.5, threshold=threshold)
    shown, info = env.reset(seed=5)
    with_budget, without = (PolicyDriver(model, 3, threshold) for _ in range(2))
    np.testing.assert_array_equal(with_budget(shown, info), without(shown[:, :-2], info))


def test_it_teaches(folder: Path, tmp_path: Path) -> None:
    config = ImitationConfig(
        num_envs=4, steps=30, total_steps=240, batch_size=4, epochs=1.0, reduced=8, hidden=8,
        trunk=8, film=0, teacher=str(folder),
    )  # fmt: skip
    train_imitation(config, tmp_path / "recurrent")
    train_imitation(replace(config, teacher="preview"), tmp_path / "preview")
    lines = [
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])
        for name in ("recurrent", "preview")
    ]
    assert lines[0]["drive/steer_error"] != lines[1]["drive/steer_error"]


def test_no_driver_in_the_folder(tmp_path: Path) -> None:
    config = ImitationConfig(teacher=str(tmp_path / "absent"))
    with pytest.raises(InputError, match="neither preview nor a folder"):
        train_imitation(config, tmp_path / "out")
    with pytest.raises(InputError, match="no checkpoint"):
        train_imitation(replace(config, teacher=str(tmp_path)), tmp_path / "out")
    save_checkpoint(tmp_path / "last.pt", KIND, {"learner": {"policy": {}}})
    with pytest.raises(InputError, match="does not fit a recurrent driver"):
        load_driver(tmp_path)
