"""What every registered task has to keep, in one loop over the registry."""

import pickle
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from steerlab.envs import TASKS, register

IDS = sorted(TASKS)


def drive(env: gym.Env[Any, Any], seed: int, steps: int = 30) -> list[Any]:
    """Return the observations and rewards of a random drive that depends on ``seed`` only."""
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    record = [observation]
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        record += [observation, np.float64(reward)]
        if terminated or truncated:
            observation, _ = env.reset()
            record.append(observation)
    return record


def assert_same(a: list[Any], b: list[Any]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def test_registration_is_idempotent() -> None:
    register()
    assert set(TASKS) <= set(gym.registry)


@pytest.mark.parametrize("name", IDS)
def test_checkers(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # advice on the scale of spaces
        env = gym.make(name)
        check_env(env.unwrapped)
        check_env_sb3(gym.make(f"steerlab:{name}"))


@pytest.mark.parametrize("name", IDS)
def test_seeds_decide_everything(name: str) -> None:
    env = gym.make(name)
    first = drive(env, 3)
    assert_same(first, drive(gym.make(name), 3))
    other = drive(env, 4)
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=False))


@pytest.mark.parametrize("name", IDS)
def test_pickled_copy_drives_on_alike(name: str) -> None:
    env = gym.make(name)
    drive(env, 5)
    copy = pickle.loads(pickle.dumps(env))
    action = env.action_space.sample()
    a, b = env.step(action), copy.step(action)
    np.testing.assert_array_equal(a[0], b[0])
    assert a[1] == b[1]


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_vector_rows_equal_single_environments(name: str, mode: AutoresetMode) -> None:
    count, rng = 3, np.random.default_rng(0)
    native = gym.make_vec(name, num_envs=count, autoreset_mode=mode)
    # The native form is chosen by default.
    assert type(native.unwrapped).__name__ == TASKS[name].vector_entry_point.rpartition(":")[2]
    single = gym.make_vec(
        name,
        num_envs=count,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
    )
    np.testing.assert_array_equal(native.reset(seed=8)[0], single.reset(seed=8)[0])
    low, high = TASKS[name].reward_bounds
    for _ in range(60):
        native.action_space.seed(int(rng.integers(2**31)))
        actions = native.action_space.sample()
        ours, theirs = native.step(actions), single.step(actions)
        for a, b in zip(ours[:4], theirs[:4], strict=True):
            np.testing.assert_array_equal(a, b)
        assert ours[0].dtype == native.observation_space.dtype
        assert ((ours[1] >= low) & (ours[1] <= high)).all()
        assert np.isfinite(ours[1]).all()


@pytest.mark.parametrize("name", IDS)
def test_episodes_end_and_reset(name: str) -> None:
    env = gym.make_vec(name, num_envs=2, autoreset_mode="SameStep")
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(3000):
        *_, terminated, truncated, infos = env.step(env.action_space.sample())
        done = terminated | truncated
        if done.any():
            row = int(np.flatnonzero(done)[0])
            assert infos["final_obs"][row].shape == env.single_observation_space.shape
            return
    pytest.fail("no episode ended within 3000 steps")


@pytest.mark.parametrize("name", IDS)
def test_pictures(name: str) -> None:
    env = gym.make(name, render_mode="rgb_array")
    env.reset(seed=1)
    env.action_space.seed(1)
    before = env.render()
    for _ in range(5):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            break
    after = env.render()
    assert isinstance(before, np.ndarray)
    assert isinstance(after, np.ndarray)
    assert after.dtype == np.uint8
    assert after.ndim == 3
    assert after.shape == before.shape
    assert (before != after).any()
