"""The base classes, on a task whose every number can be worked out by hand."""

import inspect
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv

from steerlab.envs.batch import BatchEnv, Info, Rows, SingleEnv
from steerlab.envs.sb3 import SB3VecEnv
from steerlab.errors import InputError


class WalkBatch(BatchEnv):
    """A random walk: ends at |x| > 2, is cut after 6 steps."""

    def __init__(self, num_envs: int = 1, **kwargs: Any) -> None:
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.single_action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        super().__init__(num_envs, **kwargs)
        self.x, self.t = np.zeros(num_envs), np.zeros(num_envs, int)

    def _reset(self, rows: Rows, options: dict[str, Any]) -> None:
        self.x[rows] = [self.row_rng[i].uniform(-1, 1) for i in self.row_indices(rows)]
        self.x[rows] += options.get("shift", 0.0)
        self.t[rows] = 0

    def _step(self, rows: Rows, actions: NDArray[Any]) -> tuple[Any, Any, Any]:
        noise = np.array([self.row_rng[i].normal(0, 0.5) for i in self.row_indices(rows)])
        self.x[rows] += actions[:, 0] + noise
        self.t[rows] += 1
        return -(self.x[rows] ** 2), np.abs(self.x[rows]) > 2, self.t[rows] >= 6

    def _observe(self, rows: Rows) -> NDArray[Any]:
        return np.stack([self.x[rows], self.t[rows]], 1).astype(np.float32)

    def _info(self, rows: Rows) -> Info:
        return {"x": self.x[rows].copy()}


class Walk(SingleEnv):
    batch_type = WalkBatch


def check_same(a: Any, b: Any) -> None:
    assert type(a) is type(b) or isinstance(a, np.ndarray)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            check_same(a[key], b[key])
    elif isinstance(a, np.ndarray) and a.dtype == object:
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            check_same(x, y) if x is not None else pytest.fail("differs") if y is not None else None
    else:
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_rows_equal_single_environments_in_gymnasium(mode: AutoresetMode) -> None:
    ours: Any = WalkBatch(num_envs=5, autoreset_mode=mode)
    theirs: Any = SyncVectorEnv([Walk] * 5, autoreset_mode=mode)
    rng = np.random.default_rng(0)
    check_same(ours.reset(seed=3)[0], theirs.reset(seed=3)[0])
    ends = 0
    for _ in range(60):
        actions = rng.uniform(-1, 1, (5, 1)).astype(np.float32)
        a, b = ours.step(actions), theirs.step(actions)
        for x, y in zip(a, b, strict=True):
            check_same(x, y)
        ends += (a[2] | a[3]).sum()
    assert ends > 20


def test_adapter_equals_dummy_vec_env() -> None:
    ours = SB3VecEnv(WalkBatch(num_envs=4, autoreset_mode=AutoresetMode.SAME_STEP))
    theirs = DummyVecEnv([Walk] * 4)
    for venv in (ours, theirs):
        venv.seed(7)
        venv.set_options({"shift": 0.25})
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    check_same(ours.reset_infos, theirs.reset_infos)
    rng = np.random.default_rng(1)
    for _ in range(50):
        actions = rng.uniform(-1, 1, (4, 1)).astype(np.float32)
        a, b = ours.step(actions), theirs.step(actions)
        for x, y in zip(a[:3], b[:3], strict=True):
            np.testing.assert_array_equal(x, y)
            assert x.dtype == y.dtype  # type: ignore[union-attr]
        for x, y in zip(a[3], b[3], strict=True):
            check_same(x, y)
        check_same(ours.reset_infos, theirs.reset_infos)


def test_adapter_refuses_other_modes() -> None:
    with pytest.raises(InputError, match="SAME_STEP"):
        SB3VecEnv(WalkBatch(num_envs=2))


def test_partial_reset_leaves_other_rows_alone() -> None:
    env = WalkBatch(num_envs=3, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    before = env.step(np.zeros((3, 1), np.float32))[0]
    after, infos = env.reset(options={"reset_mask": np.array([False, True, False])})
    np.testing.assert_array_equal(before[[0, 2]], after[[0, 2]])
    assert after[1, 1] == 0
    np.testing.assert_array_equal(infos["_x"], [False, True, False])
    for mask in (np.zeros(3, bool), np.ones(2, bool), np.ones(3)):
        with pytest.raises(InputError, match="reset_mask"):
            env.reset(options={"reset_mask": mask})


def test_bad_use_is_refused() -> None:
    with pytest.raises(InputError, match="num_envs"):
        WalkBatch(num_envs=0)
    with pytest.raises(InputError, match="render_mode"):
        WalkBatch(num_envs=1, render_mode="ascii")
    env = WalkBatch(num_envs=2, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros((2, 1)))
    env.reset(seed=[1, 2])
    with pytest.raises(InputError, match="shape"):
        env.step(np.zeros(2))
    with pytest.raises(InputError, match="3 seeds"):
        env.reset(seed=[1, 2, 3])
    for _ in range(6):
        *_, terminated, truncated, _ = env.step(np.zeros((2, 1)))
        if (terminated | truncated).any():
            break
    with pytest.raises(gym.error.ResetNeeded, match="over"):
        env.step(np.zeros((2, 1)))


def test_a_first_reset_that_fails_starts_nothing() -> None:
    env = WalkBatch(num_envs=2)
    with pytest.raises(ValueError, match="could not"):
        env.reset(options={"shift": np.array([1.0, 2.0, 3.0])})
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros((2, 1)))


def test_signatures_tell_the_arguments() -> None:
    """What ``help`` shows: the task's own arguments, then those that it hands on."""

    class LongWalk(WalkBatch):
        def __init__(self, num_envs: int = 2, *, pace: float = 1.0, **kwargs: Any) -> None:
            super().__init__(num_envs, **kwargs)

    class OneLongWalk(SingleEnv):
        batch_type = LongWalk

    whole = inspect.signature(LongWalk)
    assert list(whole.parameters)[:2] == ["num_envs", "pace"]
    assert {"autoreset_mode", "render_mode", "max_episode_steps"} <= set(whole.parameters)
    assert whole.bind(3, pace=2.0).arguments == {"num_envs": 3, "pace": 2.0}
    assert set(inspect.signature(OneLongWalk).parameters) == LongWalk.settings() - {
        "num_envs",
        "autoreset_mode",
    }
