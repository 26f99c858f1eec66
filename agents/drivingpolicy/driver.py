"""A pair of vision and policy at the wheel of CarlaDriver-v0: from camera to command through the runner."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.agents.drivingpolicy.network import DrivingPolicy
from steerlab.agents.policynet.driver import OpenpilotDriver, cruise_acceleration
from steerlab.envs.carla_driver.env import CarlaDriverVectorEnv
from steerlab.envs.kinematic_driver import dynamics
from steerlab.envs.kinematic_driver.dynamics import DT
from steerlab.envs.kinematic_driver.numpy_backend import NUMPY
from steerlab.envs.kinematic_driver.observation import LAYOUT
from steerlab.openpilot.contracts import Model
from steerlab.openpilot.engines import Network, TorchEngine
from steerlab.openpilot.in_graph import Packed
from steerlab.types import Array

SPELL = 3.0  # s, for which one of two drivers goes on


class PairDriver(OpenpilotDriver):
    """Drives all rows of CarlaDriver with what openpilot would publish from the windshield's pictures.

    The arguments are those of :class:`~steerlab.agents.policynet.driver.OpenpilotDriver`; a supercombo needs no
    ``vision``.
    """

    def propose(self, info: dict[str, Any], observation: Any) -> tuple[Array, Array]:
        """Return the curvature (1/m) and the acceleration (m/s^2) that it asks for, (N,) each."""
        frame, asked = self.ask(observation)
        return self.publish(asked.command, frame, observation, info["speed"].astype(float))

    def keep(self, info: dict[str, Any], actions: Array) -> None:
        """Take note of what was carried out: the runner keeps what it published."""


class StraightDriver:
    """Has one plan, straight ahead; the cruise control holds the set speed. What blindness is worth."""

    def __init__(self, env: CarlaDriverVectorEnv) -> None:
        self.env = env

    def reset(self, observation: Any, info: dict[str, Any], rows: Any = slice(None)) -> None:
        """Do nothing: there is no past."""

    def __call__(self, observation: Any, info: dict[str, Any]) -> NDArray[np.float32]:
        """Return actions (N, 2)."""
        v = info["speed"].astype(float)
        pedal = cruise_acceleration(v, LAYOUT.split(observation)["cruise_speed"][:, 0])
        actions = dynamics.encode_action(NUMPY, np.zeros_like(v), pedal, v)
        return np.stack(actions, 1).astype(np.float32)


class MixedDriver:
    """One of two drivers at a time, in spells: the pair, or the teacher who sees the true state.

    The teacher also takes over for a spell when the pair is too far from the path or too fast, as a
    safety driver would, so that the episode goes on (HG-DAgger, Kelly et al. 2019).

    Args:
        env: One row of the environment.
        pair: The pair.
        share: Share of the spells in which the teacher drives, 0 to 1.
        takeover: Distance from the path (m) at which the teacher takes over; infinite for never.
        overspeed: The same for m/s above the planned speed, which bends, stops and the vehicle ahead limit.
        seed: Of the choice.
    """

    def __init__(
        self,
        env: CarlaDriverVectorEnv,
        pair: PairDriver,
        share: float,
        takeover: float,
        overspeed: float,
        seed: list[int],
    ) -> None:
        self.env, self.pair, self.teacher = env, pair, PreviewDriver(env)
        self.spell, self.takeover, self.overspeed = round(SPELL / DT), takeover, overspeed
        draws = np.random.default_rng(seed).random(1 + env.steps // self.spell)
        self.taught = np.repeat(draws < share, self.spell)
        self.tick = self.until = 0

    def reset(self, observation: Any, info: dict[str, Any]) -> None:
        """Forget the past: a new episode has begun."""
        self.pair.reset(observation, info)
        self.teacher.reset(observation, info)
        self.tick = self.until = 0

    def propose(self, info: dict[str, Any], observation: Any) -> tuple[Array, Array]:
        """Return curvature (1/m) and acceleration (m/s^2) of who drives now; both go along."""
        asked = self.pair.propose(info, observation)
        planned = self.env.preview(np.zeros(1))["planned_speed"][0, 0]
        away, faster = abs(self.env.simulator.state.d[0]), info["speed"][0] - planned
        if away > self.takeover or faster > self.overspeed:
            self.until = self.tick + self.spell
        if self.tick < self.until or self.taught[min(self.tick, len(self.taught) - 1)]:
            asked = self.teacher.propose(info, observation)
        self.tick += 1
        return asked

    def keep(self, info: dict[str, Any], actions: Array) -> None:
        """Take note of what was carried out."""
        self.teacher.keep(info, actions)


def torch_policy(policy: DrivingPolicy) -> Network:
    """Return a policy that is not exported as the runner takes it: flat outputs of its contract."""
    return packed(Packed(policy, policy.model), policy.model)


def packed(module: Any, model: Model) -> Network:
    """Return a module with a flat output as the runner takes it."""
    return Network(TorchEngine(module, list(model.inputs)), model.slices)
