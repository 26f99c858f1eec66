"""The tasks, and the one table that registers them with gymnasium."""

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from steerlab.errors import InputError

if TYPE_CHECKING:
    from steerlab.envs.batch import SingleEnv


@dataclass(frozen=True)
class Task:
    """Where a task's classes are, how long an episode is, and what the reward of a step can be."""

    entry_point: str
    vector_entry_point: str
    reward_bounds: tuple[float, float] = (-inf, inf)
    #: Steps of an episode by default; None where they follow from other arguments.
    max_episode_steps: int | None = None


TASKS = {
    "InvertedPendulumWide-v0": Task(
        "steerlab.envs.inverted_pendulum.env:InvertedPendulumEnv",
        "steerlab.envs.inverted_pendulum.env:InvertedPendulumVectorEnv",
        reward_bounds=(0.0, 1.0),
        max_episode_steps=100,
    ),
    "TinyPhysics-v0": Task(
        "steerlab.envs.tinyphysics.env:TinyPhysicsEnv",
        "steerlab.envs.tinyphysics.env:TinyPhysicsVectorEnv",
        reward_bounds=(-inf, 0.0),
        max_episode_steps=400,
    ),
    "DoubleIntegrator-v0": Task(
        "steerlab.envs.tracking.double_integrator:DoubleIntegratorEnv",
        "steerlab.envs.tracking.double_integrator:DoubleIntegratorVectorEnv",
        reward_bounds=(-inf, 0.0),
    ),
    "VanDerPol-v0": Task(
        "steerlab.envs.tracking.van_der_pol:VanDerPolEnv",
        "steerlab.envs.tracking.van_der_pol:VanDerPolVectorEnv",
        reward_bounds=(-inf, 0.0),
    ),
    "KinematicDriver-v0": Task(
        "steerlab.envs.kinematic_driver.env:KinematicDriverEnv",
        "steerlab.envs.kinematic_driver.env:KinematicDriverVectorEnv",
        max_episode_steps=500,
    ),
    "CarlaDriver-v0": Task(
        "steerlab.envs.carla_driver.env:CarlaDriverEnv",
        "steerlab.envs.carla_driver.env:CarlaDriverVectorEnv",
    ),
}


_OURS = frozenset(TASKS)


def register() -> None:
    """Register every task of the package that is not registered yet."""
    for name, task in TASKS.items():
        if name not in gym.registry:
            gym.register(
                id=name,
                entry_point=task.entry_point,
                vector_entry_point=task.vector_entry_point,
                max_episode_steps=task.max_episode_steps,
            )


def register_task(
    name: str,
    env: "type[SingleEnv]",
    *,
    max_episode_steps: int | None = None,
    reward_bounds: tuple[float, float] = (-inf, inf),
) -> None:
    """Register a task of your own with gymnasium, in its single and its native vector form.

    Registering a name of your own again replaces it, as when a notebook's cell runs twice.

    Args:
        name: Id, for example ``"Walk-v0"``.
        env: The single form; its ``batch_type`` is the vector form.
        max_episode_steps: Steps of an episode by default; the constructor of ``batch_type`` must
            then take an argument of that name. None where other arguments decide.
        reward_bounds: Lowest and highest reward of a step.

    Raises:
        InputError: The name belongs to another task, or ``env`` is no single form of one.
    """
    from steerlab.envs.batch import SingleEnv

    if not (isinstance(env, type) and issubclass(env, SingleEnv) and hasattr(env, "batch_type")):
        raise InputError(f"{env!r} must be a subclass of SingleEnv with a batch_type")
    if name in _OURS or (name in gym.registry and name not in TASKS):
        raise InputError(f"the name {name!r} is taken: choose another, for example 'My{name}'")
    gym.registry.pop(name, None)
    vector_type: Any = env.batch_type
    gym.register(
        id=name,
        entry_point=env,
        vector_entry_point=vector_type,
        max_episode_steps=max_episode_steps,
    )
    single, vector = (f"{kind.__module__}:{kind.__qualname__}" for kind in (env, vector_type))
    TASKS[name] = Task(single, vector, reward_bounds, max_episode_steps)
