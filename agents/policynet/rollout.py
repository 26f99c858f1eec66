"""Driving KinematicDriver-v0 with a policy network in training, and what is kept of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steerlab.agents.policynet.driver import cruise_acceleration
from steerlab.agents.policynet.feature_extractor import Encoder, FeatureExtractor
from steerlab.agents.policynet.model import LONGITUDINAL_DELAY, Memory, Parts, PolicyNet
from steerlab.envs.kinematic_driver import dynamics
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.numpy_backend import NUMPY
from steerlab.envs.kinematic_driver.observation import LAYOUT
from steerlab.envs.kinematic_driver.violations import VIOLATIONS
from steerlab.envs.layout import Layout
from steerlab.envs.wrappers.cvar import CVaRVectorReward, cvar
from steerlab.openpilot.commands import (
    Command,
    action_times,
    plan_acceleration,
    plan_curvature,
    smooth,
)
from steerlab.openpilot.contracts import DESIRES, FEATURES, STRIDE, CommandRule
from steerlab.openpilot.history import DesirePulse

Floats = NDArray[Any]

#: What is kept of a frame besides its features. ``car`` is lateral_control_params, ``wanted`` the
#: teacher's command (1/m, m/s^2), the rest is the true motion.
FRAME = Layout(
    desire=len(DESIRES), traffic=2, car=2, wanted=2, x=1, y=1, yaw=1, speed=1, acceleration=1,
    yaw_rate=1, desired=1,
)  # fmt: skip


@dataclass
class Rollout:
    """T steps of N rows, one episode after the other in each row.

    Attributes:
        features: (T, N, 512), float16.
        frames: (T, N, FRAME.size), float32.
        first: Step at which the frame's episode began, (T, N).
        last: Last step of it, (T, N).
        figures: What was seen, for the log.
        chance: What was drawn anew for the disturbance of each command, standard normal, (T, N, 2).
        rewards: Rewards, (T, N).
        dones: Whether the episode ended with this step, (T, N).
        critic_obs: What ``watch`` told before every step and after the last, (T + 1, N, K).
    """

    features: Tensor
    frames: Tensor
    first: Tensor
    last: Tensor
    figures: dict[str, float] = field(default_factory=dict)
    chance: Tensor = field(default_factory=lambda: torch.empty(0))
    rewards: Tensor = field(default_factory=lambda: torch.empty(0))
    dones: Tensor = field(default_factory=lambda: torch.empty(0))
    critic_obs: Tensor = field(default_factory=lambda: torch.empty(0))


class ModelInputs:
    """Turns observations into the inputs that modeld would hand to the policy, for N rows."""

    def __init__(self, rows: int, rule: CommandRule, eyes: FeatureExtractor) -> None:
        self.rule, self.eyes = rule, eyes
        self.pulse = DesirePulse(rows)
        self.pulses = np.zeros((STRIDE, rows, len(DESIRES)), np.float32)
        self.clock = 0

    def reset(self, rows: Any = slice(None)) -> None:
        """Forget the desires of ``rows``."""
        self.pulse.clear(rows)
        self.pulses[:, rows] = 0.0
        self.eyes.reset(rows)

    def __call__(self, env: KinematicDriverVectorEnv, observation: Floats) -> dict[str, Floats]:
        """Return features (N, 512), desire bin (N, 8), traffic (N, 2), car (N, 2) and times."""
        parts = LAYOUT.split(observation)
        self.pulses[self.clock % STRIDE] = self.pulse(parts["desire"])
        self.clock += 1
        delay = parts["lat_delay"][:, 0]
        t_lateral, t_longitudinal = action_times(self.rule, delay, LONGITUDINAL_DELAY)
        speed = np.maximum(parts["speed"][:, 0], 0.0)
        return {
            "features": self.eyes(env, observation),
            "desire": self.pulses.max(axis=0),
            "traffic": parts["traffic_convention"],
            "car": np.stack([speed, delay + np.float32(self.rule.lat_smooth_s)], 1),
            "t_lateral": t_lateral,
            "t_longitudinal": np.full_like(delay, t_longitudinal),
        }


def plan_command(network: PolicyNet, parts: Parts, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the curvature and acceleration that the contract's rule reads from the plan, (...).

    Up to the times of action all hypotheses are the same, so one without shape of its own will do.

    Args:
        network: The policy.
        parts: What its heads say.
        given: ``car``, ``t_lateral`` and ``t_longitudinal``, tensors or arrays.
    """
    rule = network.contract.command
    flat = torch.zeros_like(parts.bends[..., :1, :])
    plan = network.shape(parts.near, flat, flat)[..., 0, :, :]
    v, t_lateral, t_longitudinal = (
        torch.as_tensor(x, dtype=torch.float32)
        for x in (given["car"][..., 0], given["t_lateral"], given["t_longitudinal"])
    )
    return plan_curvature(rule, plan, v, t_lateral), plan_acceleration(rule, plan, t_longitudinal)


class BatchedPolicyDriver:
    """A policy network at the wheel of all rows, without a runner around it: fast, same commands.

    Args:
        network: The policy.
        env: The task.
        eyes: Where the features come from; the fixed encoder by default. With others the cruise
            control holds the set speed.
    """

    def __init__(
        self,
        network: PolicyNet,
        env: KinematicDriverVectorEnv,
        eyes: FeatureExtractor | None = None,
    ) -> None:
        n, self.rule = env.num_envs, network.contract.command
        self.network, self.env, self.cruises = network, env, eyes is not None
        self.senses, self.memory = ModelInputs(n, self.rule, eyes or Encoder()), Memory(network, n)
        self.last = Command(np.zeros(n), np.zeros(n), np.zeros(n, bool))

    def reset(self, observation: Any, info: dict[str, Any], rows: Any = slice(None)) -> None:
        """Forget the past: new episodes have begun in ``rows``."""
        self.senses.reset(rows)
        self.memory.reset(torch.as_tensor(rows) if isinstance(rows, np.ndarray) else rows)
        for value in self.last[:2]:
            value[rows] = 0.0

    @torch.no_grad()
    def think(self, observation: Any) -> tuple[dict[str, Floats], tuple[Floats, Floats]]:
        """Return what the policy is given, and the curvature and acceleration it asks for."""
        now = self.senses(self.env, observation)
        given = {k: torch.as_tensor(now[k]) for k in ("features", "desire", "traffic", "car")}
        car = given["car"] if "lateral_control_params" in self.network.feeds else None
        parts = self.memory.step(given["features"], given["desire"], given["traffic"], car)
        curvature, pedal = plan_command(self.network, parts, now)
        return now, (curvature.numpy().astype(float), pedal.numpy().astype(float))

    def act(
        self, asked: tuple[Floats, Floats], now: dict[str, Floats], observation: Any, v: Floats
    ) -> Floats:
        """Smooth the curvature and acceleration that are asked for; return actions (N, 2)."""
        self.last = smooth(
            self.rule, Command(*asked, self.last.should_stop), self.last, now["car"][:, 0]
        )
        published = self.last.acceleration
        if self.cruises:
            set_speed = LAYOUT.split(observation)["cruise_speed"][:, 0]
            published = np.minimum(published, cruise_acceleration(v, set_speed))
        return np.stack(dynamics.encode_action(NUMPY, self.last.curvature, published, v), 1)

    def __call__(self, observation: Any, info: dict[str, Any]) -> NDArray[np.float32]:
        """Return actions (N, 2)."""
        now, asked = self.think(observation)
        v = info["speed"].astype(float)
        return self.act(asked, now, observation, v).astype(np.float32)


class Teacher(Protocol):
    """Says in every state what it would do, whoever drives."""

    def reset(self, observation: Any, info: dict[str, Any], rows: Any = ...) -> None:
        """Forget the past: new episodes have begun in ``rows``."""

    def propose(self, info: dict[str, Any], observation: Any) -> tuple[Floats, Floats]:
        """Return the curvature (1/m) and acceleration (m/s^2) that it would ask for, (N,)."""

    def keep(self, info: dict[str, Any], actions: Floats) -> None:
        """Take note of the actions (N, 2) that are executed in this state."""


@dataclass(frozen=True)
class BehaviorMix:
    """Who drives while data are collected."""

    teacher: float = 0.0  # share of the time that the teacher drives
    noise: float = 0.5  # share of the time that the commands are disturbed
    lateral: float = 1.0  # m/s^2, standard deviation of the steering's disturbance
    pedal: float = 0.7  # m/s^2, standard deviation of the pedals'
    keep: tuple[float, float] = (0.92, 0.98)  # of both disturbances from step to step
    block: int = 30  # steps for which a choice holds


#: Tells what else is to be kept of a state: from the task, the observation and ``info``, (N, K).
Watch = Callable[[KinematicDriverVectorEnv, Any, dict[str, Any]], Floats]


@torch.no_grad()
def collect(
    network: PolicyNet,
    env: KinematicDriverVectorEnv | CVaRVectorReward,
    teacher: Teacher | None,
    steps: int,
    seed: int,
    mixture: BehaviorMix,
    eyes: FeatureExtractor | None = None,
    watch: Watch | None = None,
) -> Rollout:
    """Drive all rows for ``steps`` steps; an episode that ends is followed by a fresh one.

    Args:
        network: The policy, which drives through its plan.
        env: Environment with ``autoreset_mode="Disabled"``.
        teacher: Says in every state what it would do. Without one, what was asked for is ``wanted``.
        steps: Steps of each row.
        seed: Seed of the roads, and of who drives when.
        mixture: Who drives.
        eyes: Where the features come from; the fixed encoder by default. With a vision network the
            cruise control holds the set speed, which is not in the pictures.
        watch: What else is kept of every state.
    """
    task = env.unwrapped
    assert isinstance(task, KinematicDriverVectorEnv)
    n = env.num_envs
    rng = np.random.default_rng([seed, 7])
    pilot = BatchedPolicyDriver(network, task, eyes)
    features = torch.empty(steps, n, FEATURES, dtype=torch.float16)
    frames = np.zeros((steps, n, FRAME.size), np.float32)
    first = np.zeros((steps, n), np.int64)
    chance = np.zeros((steps, n, 2), np.float32)
    rewards, ended = np.zeros((steps, n), np.float32), np.zeros((steps, n), bool)
    critic_obs: list[Tensor] = []
    begun = np.zeros(n, np.int64)
    sums = np.zeros(3)
    ends: list[int] = []  # violations of episodes that are over
    returns = np.full(n, np.nan)  # of each row's first episode

    observation, info = env.reset(seed=seed)
    if teacher:
        teacher.reset(observation, info)
    pose = np.zeros((3, n))
    noise, taught, noisy = np.zeros((2, n)), np.zeros(n, bool), np.zeros(n, bool)
    keep = np.array(mixture.keep)[:, None]
    for step in range(steps):
        if watch:
            critic_obs.append(torch.as_tensor(watch(task, observation, info)))
        if step % mixture.block == 0:
            taught, noisy = rng.random((2, n)) < np.array([[mixture.teacher], [mixture.noise]])
        now, said = pilot.think(observation)
        v = info["speed"].astype(float)
        curvature, pedal = teacher.propose(info, observation) if teacher else said
        scale = dynamics.curvature_scale(NUMPY, v)
        steer = np.clip(curvature, -1.4 * scale, 1.4 * scale)
        pedal = np.clip(pedal, -3.0, 1.8)
        drawn = rng.normal(size=(2, n))
        noise = keep * noise + np.sqrt(1 - keep**2) * drawn
        sway, push = noisy * noise * np.array([[mixture.lateral], [mixture.pedal]])
        asked = (
            np.where(taught, steer, said[0]) + sway / sway_speed(v) ** 2,
            np.where(taught, pedal, said[1]) + push,
        )
        actions = pilot.act(asked, now, observation, v)
        if teacher:
            teacher.keep(info, actions)

        features[step] = torch.as_tensor(now["features"])
        yaw_rate = v * info["curvature"]
        parts_of = FRAME.split(frames[step])
        for name in ("desire", "traffic", "car"):
            parts_of[name][:] = now[name]
        wanted = (steer, pedal) if teacher else asked
        parts_of["wanted"][:] = np.stack(wanted, 1)
        motion = (*pose, v, info["acceleration"], yaw_rate)
        for name, value in zip(
            ("x", "y", "yaw", "speed", "acceleration", "yaw_rate"), motion, strict=True
        ):
            parts_of[name][:, 0] = value
        parts_of["desired"][:, 0] = LAYOUT.split(observation)["desire"].argmax(1)
        first[step], chance[step] = begun, drawn.T
        error = np.abs(said[0] - steer) / scale
        sums += [np.mean(error**2), np.mean((said[1] - pedal) ** 2), np.mean(np.abs(info["cte"]))]

        observation, rewards[step], terminated, truncated, info = env.step(
            actions.astype(np.float32)
        )
        # The bicycle's motion over the step, midpoint rule.
        turn = dynamics.DT * info["speed"] * info["curvature"]
        way, course = dynamics.DT * 0.5 * (v + info["speed"]), pose[2] + 0.5 * turn
        pose = pose + np.stack([way * np.cos(course), way * np.sin(course), turn])
        ended[step] = over = terminated | truncated
        if over.any():
            ends += info["violation"][over].tolist()
            returns = np.where(over & (begun == 0), info["base_return"], returns)
            observation, fresh = env.reset(options={"reset_mask": over})
            for name, values in fresh.items():
                if not name.startswith("_"):
                    info[name] = np.where(over, values, info[name])
            if teacher:
                teacher.reset(observation, info, over)
            pilot.reset(observation, info, over)
            pose[:, over] = 0.0
            begun[over] = step + 1
    if watch:
        critic_obs.append(torch.as_tensor(watch(task, observation, info)))
    # An episode that is not over counts as if it went on as it went so far.
    longer = info["base_return"] * task.max_episode_steps / steps
    returns = np.where(begun == 0, longer, returns)
    final, end = np.empty_like(first), np.full(n, steps - 1)
    for step in range(steps - 1, -1, -1):
        if step < steps - 1:
            end = np.where(first[step + 1] != first[step], step, end)
        final[step] = end
    means = sums / steps
    taught_figures = {
        "steer_error": float(np.sqrt(means[0])),
        "pedal_error": float(np.sqrt(means[1])),
    }
    return Rollout(
        features,
        torch.as_tensor(frames),
        torch.as_tensor(first),
        torch.as_tensor(final),
        (taught_figures if teacher else {})
        | {
            "cte_mean": float(means[2]),
            "episodes": float(len(ends)),
            "return": float(returns.mean()),
            "return_cvar": cvar(returns, 0.05),
            "violations": float(sum(kind > 0 for kind in ends)),
        }
        | {name: float(sum(k == i for k in ends)) for i, name in enumerate(VIOLATIONS) if i},
        chance=torch.as_tensor(chance),
        rewards=torch.as_tensor(rewards),
        dones=torch.as_tensor(ended),
        critic_obs=torch.stack(critic_obs).float() if watch else torch.empty(0),
    )


def sway_speed(v: Any) -> Any:
    """Return the speed (m/s) at which a disturbance's lateral acceleration is a curvature."""
    return np.maximum(v, 3.0)
