"""Resumable training of stable-baselines3 algorithms."""

from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from steerlab.agents.checkpoint import load_checkpoint
from steerlab.agents.run_log import Record, read_log
from steerlab.agents.sb3 import load_sb3, train_sb3
from steerlab.envs.sb3 import make_sb3_vec
from steerlab.files import watch_changes
from tests.test_seeds import legacy_state

TOTAL = 6 * 3 * 32


def make() -> PPO:
    venv = VecNormalize(make_sb3_vec("TinyPhysics-v0", 3, seeds="random"))
    return PPO(
        "MlpPolicy",
        venv,
        n_steps=32,
        batch_size=48,
        n_epochs=2,
        seed=5,
        learning_rate=lambda left: 1e-3 * left,
        policy_kwargs={"net_arch": [8]},
        device="cpu",
    )


class Stop(Exception):
    pass


def train(folder: Path, stop_at: int = 0) -> PPO:
    """Train; stop before the visible change ``stop_at``."""
    changes = 0

    def stop(when: str, path: Path) -> None:
        nonlocal changes
        changes += when == "before"
        if stop_at and changes == stop_at:
            raise Stop

    model = make()
    with watch_changes(stop):
        train_sb3(model, folder, TOTAL, {}, seed=5, figures=lambda share: {"share": share})
    return model


def untimed(folder: Path) -> list[Record]:
    timed = ("time/fps", "time/time_elapsed")
    return [{k: v for k, v in r.items() if k not in timed} for r in read_log(folder)]


@pytest.mark.parametrize("stop_at", [2, 6, 7, 13])
def test_resumed_equals_uninterrupted(tmp_path: Path, stop_at: int) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(Stop):
        train(tmp_path / "cut", stop_at)
    resumed = train(tmp_path / "cut")
    for a, b in zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    assert whole.num_timesteps == resumed.num_timesteps == TOTAL
    log = untimed(tmp_path / "cut")
    assert log == untimed(tmp_path / "whole")
    assert [r["share"] for r in log if "share" in r] == [k / 6 for k in range(1, 7)]
    assert [r["time/iterations"] for r in log if "share" not in r] == [1, 2, 3, 4, 5, 6]
    assert "train/loss" not in log[0]  # logged after the rollout that follows the update
    assert "train/loss" in log[2]
    assert load_checkpoint(tmp_path / "cut/last.pt")["learner"]["num_timesteps"] == TOTAL


def test_a_loaded_policy_acts_alike(tmp_path: Path) -> None:
    model = train(tmp_path)
    other = make()
    load_sb3(tmp_path / "last.pt", other)
    normalizers = [m.get_vec_normalize_env() for m in (model, other)]
    observation = np.random.default_rng(0).normal(size=(5, 241)).astype(np.float32)
    actions = [m.predict(observation, deterministic=True)[0] for m in (model, other)]
    np.testing.assert_array_equal(actions[0], actions[1])
    a, b = (n.normalize_obs(observation) for n in normalizers if n)
    np.testing.assert_array_equal(a, b)


def test_the_callers_generators_stay(tmp_path: Path) -> None:
    model = make()
    before = torch.get_rng_state(), legacy_state()
    train_sb3(model, tmp_path, 3 * 32, {}, seed=5)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(legacy_state(), before[1])
