"""The torch backend against numpy: same episodes, same actions, same trajectories."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from steerlab.envs.kinematic_driver import episodes
from steerlab.envs.kinematic_driver.numpy_backend import NUMPY
from steerlab.envs.kinematic_driver.observation import LAYOUT
from steerlab.envs.kinematic_driver.randomization import Ranges
from steerlab.envs.kinematic_driver.reward import Reward
from steerlab.envs.kinematic_driver.simulator import Simulator
from steerlab.envs.kinematic_driver.torch_backend import TorchBackend
from steerlab.envs.kinematic_driver.torch_env import KinematicDriverTorchEnv
from steerlab.errors import InputError

ROWS = 40


@pytest.mark.parametrize("noise", [False, True])
def test_backends_agree(noise: bool) -> None:
    """Even with noise: both read it from the same pool."""
    ranges = Ranges() if noise else Ranges().without_noise()
    rng = np.random.default_rng(0)
    table, made = episodes.make(ranges, rng.random((ROWS, episodes.UNIFORMS)), 100, {})
    torch_backend = TorchBackend("cpu")
    sims: list[Any] = [Simulator(ROWS, ROWS, 100, Reward(), xp) for xp in (NUMPY, torch_backend)]
    rows = np.arange(ROWS)
    sims[0].store(rows, made)
    sims[0].start(rows, rows, table)
    sims[1].store(torch.as_tensor(rows), made)
    sims[1].start(torch.as_tensor(rows), torch.as_tensor(rows), torch.as_tensor(table))
    for _ in range(60):
        actions = rng.uniform(-0.4, 0.4, (ROWS, 2)).astype(np.float32)
        a, b = sims[0].step(actions), sims[1].step(torch.as_tensor(actions))
        alive = sims[0].violation == 0
        np.testing.assert_allclose(a.reward[alive], b.reward.numpy()[alive], atol=2e-3)
        np.testing.assert_array_equal(a.truncated, b.truncated.numpy())
        seen: list[Any] = [
            np.empty((ROWS, LAYOUT.size), np.float32),
            torch.empty(ROWS, LAYOUT.size),
        ]
        sims[0].observe(slice(None), seen[0])
        sims[1].observe(slice(None), seen[1])
        for name in ("s", "d", "psi", "v", "a", "k"):
            x, y = getattr(sims[0].state, name), getattr(sims[1].state, name).numpy()
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-3, err_msg=name)
        np.testing.assert_allclose(seen[0], seen[1].numpy(), rtol=1e-3, atol=2e-2)
    assert (sims[0].violation == sims[1].violation.numpy()).mean() > 0.95
    found = [sims[0].offset_percentiles(rows), sims[1].offset_percentiles(torch.as_tensor(rows))]
    np.testing.assert_allclose(found[0], torch.stack(found[1]).numpy(), atol=2e-3)


def drive(env: KinematicDriverTorchEnv, steps: int) -> list[Any]:
    torch.manual_seed(0)
    record = [env.reset(seed=3)[0]]
    for _ in range(steps):
        o, r, te, tr, info = env.step(2 * torch.rand(env.num_envs, 2) - 1)
        record += [o, r, te, tr]
        if "final_rows" in info:
            assert info["final_obs"].shape == (len(info["final_rows"]), LAYOUT.size)
            assert (info["violation"] > 0).sum() == te.sum()
        assert torch.isfinite(o).all()
    return record


def test_episodes_repeat_and_end() -> None:
    a = drive(KinematicDriverTorchEnv(16, "cpu", pool_size=64), 150)
    b = drive(KinematicDriverTorchEnv(16, "cpu", pool_size=64), 150)
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x, y)
    ends = sum(int(x.sum()) for x in a[3::4])
    assert ends > 16


def test_bad_use_is_refused() -> None:
    with pytest.raises(InputError, match="pool_size"):
        KinematicDriverTorchEnv(2, "cpu", pool_size=0)
    env = KinematicDriverTorchEnv(2, "cpu", pool_size=2)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(torch.zeros(2, 2))
    env.reset(seed=0)
    with pytest.raises(InputError, match="not finite"):
        env.step(torch.tensor([[0.0, 0.0], [0.0, torch.nan]]))
    with pytest.raises(InputError, match="shape"):
        env.step(torch.zeros(2))
