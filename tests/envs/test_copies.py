"""A copy of a task goes on like the original: in every form, at any time, into the next episodes."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import steerlab
from steerlab.compiled import has_numba
from steerlab.envs.sb3 import make_sb3_vec
from steerlab.envs.tasks import TASKS
from steerlab.envs.wrappers.cvar import CVaRReward, CVaRVectorReward
from steerlab.envs.wrappers.risk_sampler import RiskSampler
from tests.envs.driving import actions_for, assert_same, record

STEPS = 12  # of an episode, so that a short drive sees several

#: Arguments with which a task has more state than by default.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "KinematicDriver-v0": [{"backend": "numpy"}, {"backend": "numba"}],
    "TinyPhysics-v0": [{"runtime": "fast"}, {"runtime": "torch", "seeds": "random"}],
    "InvertedPendulumWide-v0": [
        {},
        {"process_noise": 0.3, "observation_noise": 0.1, "latency": 3, "gear": (0.8, 1.2)},
    ],
    "DoubleIntegrator-v0": [{"disturbance": 0.4}],
}
CASES = [(name, kwargs) for name in sorted(TASKS) for kwargs in VARIANTS.get(name, [{}])]

COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "cloudpickle": lambda env: cloudpickle.loads(cloudpickle.dumps(env)),
}


def single(name: str, **kwargs: Any) -> Any:
    return gym.make(name, max_episode_steps=STEPS, **kwargs).unwrapped


def wrapped(name: str, **kwargs: Any) -> Any:
    return gym.make(name, max_episode_steps=STEPS, **kwargs)


def next_step(name: str, **kwargs: Any) -> Any:
    return gym.make_vec(name, 3, max_episode_steps=STEPS, **kwargs)


def same_step(name: str, **kwargs: Any) -> Any:
    mode = AutoresetMode.SAME_STEP
    return gym.make_vec(name, 3, max_episode_steps=STEPS, autoreset_mode=mode, **kwargs)


def cvar_single(name: str, **kwargs: Any) -> Any:
    return CVaRReward(wrapped(name, **kwargs), alpha=0.5, max_steps=STEPS, warm_up=1)


def cvar_vector(name: str, **kwargs: Any) -> Any:
    return CVaRVectorReward(same_step(name, **kwargs), alpha=0.5, max_steps=STEPS, warm_up=1)


def sampled(name: str, **kwargs: Any) -> Any:
    """The driver's episodes drawn by a sampler, which the wrapper and the task share."""
    env = same_step(name, **kwargs)
    sampler = RiskSampler(("friction", "lateral_delay"))
    env.unwrapped.use_sampler(sampler)
    return CVaRVectorReward(env, alpha=0.5, max_steps=STEPS, warm_up=1, sampler=sampler)


def adapter(name: str, **kwargs: Any) -> Any:
    return make_sb3_vec(name, 3, max_episode_steps=STEPS, **kwargs)


def many(name: str, **kwargs: Any) -> Any:
    """So many rows that episodes are made ahead."""
    return gym.make_vec(name, 40, max_episode_steps=STEPS, **kwargs)


FORMS = (single, same_step, cvar_vector, adapter)
MORE_FORMS = [
    pytest.param(form, marks=pytest.mark.slow) for form in (wrapped, next_step, cvar_single)
]


def start(env: Any, steps: int) -> None:
    """Reset with a seed and drive some steps, without a care for what is told."""
    if hasattr(env, "venv"):
        env.seed(7)
        env.reset()
    else:
        env.reset(seed=7)
    for action in actions_for(env, 0, steps):
        over = env.step(action)
        if isinstance(env, gym.Env) and (over[2] or over[3]):
            env.reset()


def check_copies(make: Callable[..., Any], name: str, kwargs: dict[str, Any]) -> None:
    env = make(name, **kwargs)
    picture = make is single and "rgb_array" in env.metadata["render_modes"]
    if picture:
        kwargs = {**kwargs, "render_mode": "rgb_array"}
    for done in (0, 7):  # steps that the original has made; none: it is not even reset
        env = make(name, **kwargs)
        if done:
            start(env, done)
        copies = [take(env) for take in COPIES.values()]
        actions = actions_for(env, 1, STEPS + 4)
        # One copy drives before the original does, the others after it: none may disturb another.
        drives = []
        for each in (copies[0], env, *copies[1:]):
            if not done:
                start(each, 1)
            drives.append(record(each, actions, picture and done > 0))
        for drive in drives[1:]:
            assert_same(drives[0], drive)


def skip_without_numba(kwargs: dict[str, Any]) -> None:
    if kwargs.get("backend") == "numba" and not has_numba():
        pytest.skip("needs numba")


@pytest.mark.parametrize(("name", "kwargs"), CASES)
@pytest.mark.parametrize("make", [*FORMS, *MORE_FORMS])
def test_copies_go_on_alike(make: Callable[..., Any], name: str, kwargs: dict[str, Any]) -> None:
    skip_without_numba(kwargs)
    check_copies(make, name, kwargs)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("make", [sampled, many])
def test_copies_of_the_driver_with_episodes_in_store(
    make: Callable[..., Any], backend: str
) -> None:
    skip_without_numba({"backend": backend})
    check_copies(make, "KinematicDriver-v0", {"backend": backend})


def test_copies_of_the_driver_on_torch() -> None:
    import torch

    from steerlab.envs.kinematic_driver.torch_env import KinematicDriverTorchEnv

    for done in (0, 7):
        env = KinematicDriverTorchEnv(3, "cpu", pool_size=8, max_episode_steps=STEPS)
        rng = np.random.default_rng(0)
        actions = [torch.as_tensor(rng.uniform(-1, 1, (3, 2))) for _ in range(STEPS + 4)]
        if done:
            env.reset(seed=7)
            for action in actions[:done]:
                env.step(action)
        copies = [take(env) for take in COPIES.values()]
        drives = []
        for each in (copies[0], env, *copies[1:]):
            if not done:
                each.reset(seed=7)
            drives.append(record(each, actions))
        for drive in drives[1:]:
            assert_same(drives[0], drive)


def test_copy_of_a_task_with_a_window_has_none() -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    env: Any = gym.make("KinematicDriver-v0", render_mode="human").unwrapped
    with pytest.warns(UserWarning, match="display"):
        env.reset(seed=0)
    for take in COPIES.values():
        twin = take(env)
        assert twin.batch._window is None
        assert env.batch._window is not None
    env.close()


CODE = """
import pickle, sys
from tests.envs.driving import actions_for, record
envs = pickle.load(sys.stdin.buffer)
told = [record(env, actions_for(env, 1, 16)) for env in envs]
sys.stdout.buffer.write(b"told:" + pickle.dumps(told))
"""


@pytest.mark.slow
def test_a_fresh_process_goes_on_alike() -> None:
    """As with multiprocessing's spawn: the task travels as a pickle, and nothing else does."""
    envs = []
    for name, kwargs in CASES:
        if kwargs.get("backend") == "numba" and not has_numba():
            continue
        for make in (wrapped, same_step):
            envs.append(make(name, **kwargs))
            start(envs[-1], 5)
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=Path(steerlab.__file__).parent.parent,
        input=pickle.dumps(envs),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    there = pickle.loads(done.stdout.partition(b"told:")[2])
    for env, told in zip(envs, there, strict=True):
        assert_same(record(env, actions_for(env, 1, 16)), told)
