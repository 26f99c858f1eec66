"""Resumable training of stable-baselines3 algorithms."""

from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from steerlab.agents.checkpoint import load_checkpoint
from steerlab.agents.run_log import RunLog, read_log
from steerlab.agents.sb3 import ResumableTraining, learn, load_sb3, sb3_logger
from steerlab.envs.sb3 import make_sb3_vec
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


def train(folder: Path, stop_after: int = 0) -> PPO:
    class Stop(Exception):
        pass

    def stop(steps: int) -> None:
        if stop_after and steps >= stop_after:
            raise Stop

    training = ResumableTraining(folder / "last.pt", TOTAL, seed=5, on_iteration=stop)
    model = make()
    with RunLog(folder, training.resume_step()) as log:
        model.set_logger(sb3_logger(log))
        if stop_after:
            with pytest.raises(Stop):
                learn(model, TOTAL, training)
        else:
            learn(model, TOTAL, training)
    return model


def test_the_callers_generators_stay(tmp_path: Path) -> None:
    model = make()
    before = torch.get_rng_state(), legacy_state()
    learn(model, 3 * 32, ResumableTraining(tmp_path / "last.pt", 3 * 32, seed=5))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(legacy_state(), before[1])


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    train(tmp_path / "cut", stop_after=2 * 3 * 32)
    assert load_checkpoint(tmp_path / "cut/last.pt")["num_timesteps"] == 2 * 3 * 32
    resumed = train(tmp_path / "cut")
    for a, b in zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    assert whole.num_timesteps == resumed.num_timesteps == TOTAL
    steps = [r["step"] for r in read_log(tmp_path / "cut")]
    assert steps == sorted(set(steps)) == [r["step"] for r in read_log(tmp_path / "whole")]


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
