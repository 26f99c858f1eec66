"""The tasks, and the one table that registers them with gymnasium."""

from dataclasses import dataclass
from math import inf

import gymnasium as gym


@dataclass(frozen=True)
class Task:
    """Where a task's classes are, and what its reward of one step can be."""

    entry_point: str
    vector_entry_point: str
    reward_bounds: tuple[float, float] = (-inf, inf)


TASKS = {
    "InvertedPendulumWide-v0": Task(
        "steerlab.envs.inverted_pendulum.env:InvertedPendulumEnv",
        "steerlab.envs.inverted_pendulum.env:InvertedPendulumVectorEnv",
        reward_bounds=(0.0, 1.0),
    ),
    "TinyPhysics-v0": Task(
        "steerlab.envs.tinyphysics.env:TinyPhysicsEnv",
        "steerlab.envs.tinyphysics.env:TinyPhysicsVectorEnv",
        reward_bounds=(-inf, 0.0),
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
    ),
}


def register() -> None:
    """Register every task that is not registered yet.

    The time limit is part of each task (gymnasium does not enforce it on native vector
    environments), so the registry carries none.
    """
    for name, task in TASKS.items():
        if name not in gym.registry:
            gym.register(
                id=name, entry_point=task.entry_point, vector_entry_point=task.vector_entry_point
            )


register()
