"""Driving a task of any form with given actions, and comparing what came of it."""

from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv


def actions_for(env: Any, seed: int, steps: int) -> list[Any]:
    """Return as many random actions, from a space of their own."""
    space = deepcopy(env.action_space)
    if isinstance(env, VecEnv):  # stable-baselines3 tells the space of one row
        space = gym.vector.utils.batch_space(space, env.num_envs)
    space.seed(seed)
    return [space.sample() for _ in range(steps)]


def record(env: Any, actions: list[Any], picture: bool = False) -> list[Any]:
    """Drive with ``actions``, then into two more episodes, and return all that the task tells.

    Single forms are reset whenever an episode ends, without a seed; the vector forms do it
    themselves. Then come an episode with a seed and one without.
    """
    told: list[Any] = []
    for action in actions:
        result = env.step(action)
        told.append(result)
        if isinstance(env, gym.Env) and (result[2] or result[3]):
            told.append(env.reset())
    told.append(_extras(env, picture))
    if isinstance(env, VecEnv):
        env.seed(11)
        told.append(env.reset())
    else:
        told.append(env.reset(seed=11))
    told += [env.step(action) for action in actions[:3]]
    told.append(env.reset())
    told += [env.step(action) for action in actions[:3]]
    told.append(_extras(env, False))
    return [plain(part) for part in told]


def _extras(env: Any, picture: bool) -> list[Any]:
    """Return the picture and the road ahead, where the task has them."""
    task = getattr(env, "unwrapped", env)
    task = getattr(task, "batch", task)
    ahead = task.preview([0.5, 5.0, 40.0]) if hasattr(task, "preview") else None
    return [env.render() if picture else None, ahead]


def plain(value: Any) -> Any:
    """Return ``value`` as a copy of lists, dictionaries and arrays of numbers."""
    if isinstance(value, dict):
        if value.keys() == {"r", "l", "t"}:  # of a monitor: return, length, and the time of day
            value = {"r": value["r"], "l": value["l"]}
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [plain(part) for part in value]
    if hasattr(value, "numpy"):
        value = value.cpu().numpy()
    return np.array(value) if isinstance(value, np.ndarray | np.generic) else value


def assert_same(first: Any, second: Any) -> None:
    """Fail unless both tell the same, to the last digit."""
    if not _equal(first, second):  # numpy's own comparison takes several times as long
        np.testing.assert_equal(plain(first), plain(second))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.dtype != object:
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return isinstance(a, int | float | str | None) and type(a) is type(b) and a == b
