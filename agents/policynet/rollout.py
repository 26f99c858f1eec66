"""Driving KinematicDriver-v0 with a policy network in training, and what is kept of it."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steerlab.agents.policynet.driver import FramePolicy, OpenpilotDriver
from steerlab.agents.policynet.model import PolicyNet
from steerlab.envs.kinematic_driver import dynamics
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.numpy_backend import NUMPY
from steerlab.envs.kinematic_driver.observation import LAYOUT
from steerlab.envs.kinematic_driver.violations import VIOLATIONS
from steerlab.envs.layout import Layout
from steerlab.envs.wrappers.cvar import CVaRVectorReward, cvar
from steerlab.openpilot.commands import Command
from steerlab.openpilot.contracts import DESIRES, FEATURES
from steerlab.openpilot.engines import Network

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

    def to(self, device: torch.device) -> "Rollout":
        """Return the drive on ``device``."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return Rollout(
            **{n: v.to(device) if isinstance(v, Tensor) else v for n, v in named.items()}
        )


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
def collect(  # noqa: C901 - one step of a drive: splitting it would pass a dozen arrays around
    network: PolicyNet,
    env: KinematicDriverVectorEnv | CVaRVectorReward,
    teacher: Teacher | None,
    steps: int,
    seed: int,
    mixture: BehaviorMix,
    vision: Network | None = None,
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
        vision: A vision network that makes the features; by default the fixed encoder does. With one
            the cruise control holds the set speed, which is not in the pictures.
        watch: What else is kept of every state.
    """
    task = env.unwrapped
    assert isinstance(task, KinematicDriverVectorEnv)
    n = env.num_envs
    rng = np.random.default_rng([seed, 7])
    driver = OpenpilotDriver(task, network.contract, FramePolicy(network, n), vision)
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
        frame, answer = driver.ask(observation)
        said = answer.command
        v = info["speed"].astype(float)
        curvature, pedal = teacher.propose(info, observation) if teacher else said[:2]
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
        command = Command(*asked, said.should_stop)
        actions = driver.act(command, frame, observation, v)
        if teacher:
            teacher.keep(info, actions)

        features[step] = torch.as_tensor(frame.features)
        yaw_rate = v * info["curvature"]
        parts_of = FRAME.split(frames[step])
        parts_of["desire"][:] = frame.desires[:, -1]
        parts_of["traffic"][:], parts_of["car"][:] = frame.traffic, frame.car
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
            driver.reset(observation, info, over)
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
