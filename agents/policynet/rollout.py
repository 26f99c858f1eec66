"""Driving KinematicDriver-v0 or CarlaDriver-v0 with a policy network in training, and what is kept of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
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
from steerlab.envs.layout import Layout
from steerlab.envs.wrappers.cvar import CVaRVectorReward, cvar
from steerlab.openpilot.commands import Command
from steerlab.openpilot.contracts import DESIRES, FEATURES
from steerlab.openpilot.engines import Network
from steerlab.types import Array

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
        critic_obs: Results of ``watch`` before every step and after the last, (T + 1, N, K).
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
        moved: dict[str, Any] = {n: v.to(device) for n, v in named.items() if isinstance(v, Tensor)}
        return replace(self, **moved)


class Drives:
    """All drives so far, as one of more rows; a part of checkpoints, so that a resumed run has them."""

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Tensor]:
        """Return what is kept."""
        return dict(self.kept)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take what :meth:`state_dict` returned."""
        self.kept = {name: values.cpu() for name, values in state.items()}

    def add(self, drive: Rollout) -> Rollout:
        """Add a drive; return what was driven so far, with the figures of this drive."""
        for name in ("features", "frames", "first", "last"):
            fresh = getattr(drive, name).cpu()
            self.kept[name] = torch.cat([self.kept.get(name, fresh[:, :0]), fresh], 1)
        kept: dict[str, Any] = self.kept
        return replace(drive, **kept).to(drive.features.device)


class Teacher(Protocol):
    """Says in every state what it would do, whoever drives."""

    def reset(self, observation: Any, info: dict[str, Any], rows: Any = ...) -> None:
        """Forget the past: new episodes have begun in ``rows``."""

    def propose(self, info: dict[str, Any], observation: Any) -> tuple[Array, Array]:
        """Return the curvature (1/m) and acceleration (m/s^2) that it would ask for, (N,)."""

    def keep(self, info: dict[str, Any], actions: Array) -> None:
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
Watch = Callable[[KinematicDriverVectorEnv, Any, dict[str, Any]], Array]


@torch.no_grad()
def collect(
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
    driver = OpenpilotDriver(task, network.contract, FramePolicy(network, env.num_envs), vision)
    observation, info = env.reset(seed=seed)
    if teacher:
        teacher.reset(observation, info)
    behavior = _Behavior(mixture, env.num_envs, np.random.default_rng([seed, 7]))
    kept = _Recording(steps, env.num_envs, teacher is not None, task.violations)
    critic_obs: list[Tensor] = []
    for step in range(steps):
        if watch:
            critic_obs.append(torch.as_tensor(watch(task, observation, info)))
        behavior.draw(step)
        frame, answer = driver.ask(observation)
        speed = info["speed"].astype(float)
        own = answer.command
        taught = teacher.propose(info, observation) if teacher else own[:2]
        right = _within_limits(speed, *taught)
        command = behavior.command(own, right, speed)
        actions = driver.act(command, frame, observation, speed)
        if teacher:
            teacher.keep(info, actions)
        wanted = right if teacher else command[:2]
        kept.frame(step, frame, observation, info, wanted, behavior.drawn)
        kept.compare(own, right, speed, info)
        observation, rewards, terminated, truncated, info = env.step(actions.astype(np.float32))
        over = terminated | truncated
        kept.outcome(step, rewards, over, info, speed)
        if over.any():
            observation = _restart(env, info, over, [driver, *([teacher] if teacher else [])])
    if watch:
        critic_obs.append(torch.as_tensor(watch(task, observation, info)))
    rollout = kept.rollout(info["base_return"], task.max_episode_steps)
    if watch:
        rollout.critic_obs = torch.stack(critic_obs).float()
    return rollout


def _restart(env: Any, info: dict[str, Any], over: Array, told: Sequence[Any]) -> Any:
    """Begin new episodes where ``over``, update ``info``, inform all; return the observation."""
    observation, fresh = env.reset(options={"reset_mask": over})
    for name, values in fresh.items():
        if not name.startswith("_"):
            info[name] = np.where(over, values, info[name])
    for each in told:
        each.reset(observation, info, over)
    return observation


def _within_limits(speed: Array, curvature: Array, pedal: Array) -> tuple[Array, Array]:
    """Return a curvature and an acceleration that the task's actions reach."""
    scale = dynamics.curvature_scale(NUMPY, speed)
    return np.clip(curvature, -1.4 * scale, 1.4 * scale), np.clip(pedal, -3.0, 1.8)


class _Behavior:
    """Who drives in each row, and how the commands are disturbed."""

    def __init__(self, mixture: BehaviorMix, rows: int, rng: np.random.Generator) -> None:
        self.mixture, self.rng = mixture, rng
        self.drawn = self.noise = np.zeros((2, rows))
        self.taught = self.noisy = np.zeros(rows, bool)

    def draw(self, step: int) -> None:
        """Draw anew what is drawn at this step."""
        mix, shape = self.mixture, self.noise.shape
        if step % mix.block == 0:
            shares = np.array([[mix.teacher], [mix.noise]])
            self.taught, self.noisy = self.rng.random(shape) < shares
        keep = np.array(mix.keep)[:, None]
        self.drawn = self.rng.normal(size=shape)
        self.noise = keep * self.noise + np.sqrt(1 - keep**2) * self.drawn

    def command(self, own: Command, right: tuple[Array, Array], speed: Array) -> Command:
        """Return what is executed: the policy's or the teacher's command, with the disturbance."""
        size = np.array([[self.mixture.lateral], [self.mixture.pedal]])
        sway, push = self.noisy * self.noise * size
        return Command(
            np.where(self.taught, right[0], own[0]) + sway / sway_speed(speed) ** 2,
            np.where(self.taught, right[1], own[1]) + push,
            own.should_stop,
        )


class _Recording:
    """What is kept of a drive, step by step."""

    def __init__(self, steps: int, rows: int, taught: bool, kinds: tuple[str, ...]) -> None:
        self.taught, self.kinds = taught, kinds
        self.features = torch.empty(steps, rows, FEATURES, dtype=torch.float16)
        self.frames = np.zeros((steps, rows, FRAME.size), np.float32)
        self.first = np.zeros((steps, rows), np.int64)
        self.chance = np.zeros((steps, rows, 2), np.float32)
        self.rewards, self.ended = (
            np.zeros((steps, rows), np.float32),
            np.zeros((steps, rows), bool),
        )
        self.begun = np.zeros(rows, np.int64)  # step at which the row's episode began
        self.pose = np.zeros((3, rows))  # x, y, yaw since then
        self.sums = np.zeros(3)
        self.ends: list[int] = []  # violations of episodes that are over
        self.returns = np.full(rows, np.nan)  # of each row's first episode

    def frame(
        self, step: int, frame: Any, observation: Any, info: dict[str, Any],
        wanted: tuple[Array, Array], drawn: Array,
    ) -> None:  # fmt: skip
        """Keep what the policy saw, the true motion, and what it should have asked for."""
        self.features[step] = torch.as_tensor(frame.features)
        speed = info["speed"].astype(float)
        parts = FRAME.split(self.frames[step])
        parts["desire"][:] = frame.desires[:, -1]
        parts["traffic"][:], parts["car"][:] = frame.traffic, frame.car
        parts["wanted"][:] = np.stack(wanted, 1)
        motion = (*self.pose, speed, info["acceleration"], speed * info["curvature"])
        names = ("x", "y", "yaw", "speed", "acceleration", "yaw_rate")
        for name, value in zip(names, motion, strict=True):
            parts[name][:, 0] = value
        parts["desired"][:, 0] = LAYOUT.split(observation)["desire"].argmax(1)
        self.first[step], self.chance[step] = self.begun, drawn.T

    def compare(
        self, own: Command, right: tuple[Array, Array], speed: Array, info: dict[str, Any]
    ) -> None:
        """Add up how far the policy's own command is from the right one, and the car from its path."""
        error = np.abs(own[0] - right[0]) / dynamics.curvature_scale(NUMPY, speed)
        off = np.mean(np.abs(info["cte"]))
        self.sums += [np.mean(error**2), np.mean((own[1] - right[1]) ** 2), off]

    def outcome(
        self, step: int, rewards: Array, over: Array, info: dict[str, Any], before: Array
    ) -> None:
        """Keep what came of a step that began with the speed ``before``."""
        self.rewards[step], self.ended[step] = rewards, over
        # The bicycle's motion over the step, midpoint rule.
        turn = dynamics.DT * info["speed"] * info["curvature"]
        way, course = dynamics.DT * 0.5 * (before + info["speed"]), self.pose[2] + 0.5 * turn
        self.pose = self.pose + np.stack([way * np.cos(course), way * np.sin(course), turn])
        if over.any():
            self.ends += info["violation"][over].tolist()
            self.returns = np.where(over & (self.begun == 0), info["base_return"], self.returns)
            self.pose[:, over] = 0.0
            self.begun[over] = step + 1

    def rollout(self, returns: Array, episode_steps: int) -> Rollout:
        """Return it all; ``returns`` (N,) are those so far of the episodes that are not over."""
        return Rollout(
            self.features,
            torch.as_tensor(self.frames),
            torch.as_tensor(self.first),
            torch.as_tensor(self._last()),
            self._figures(returns, episode_steps),
            chance=torch.as_tensor(self.chance),
            rewards=torch.as_tensor(self.rewards),
            dones=torch.as_tensor(self.ended),
        )

    def _last(self) -> NDArray[np.int64]:
        """Return the last step of each frame's episode."""
        steps = len(self.first)
        last, end = np.empty_like(self.first), np.full(self.first.shape[1], steps - 1)
        for step in range(steps - 1, -1, -1):
            if step < steps - 1:
                end = np.where(self.first[step + 1] != self.first[step], step, end)
            last[step] = end
        return last

    def _figures(self, so_far: Array, episode_steps: int) -> dict[str, float]:
        steps, ends = len(self.first), self.ends
        # An episode that is not over counts as if it went on as it went so far.
        returns = np.where(self.begun == 0, so_far * episode_steps / steps, self.returns)
        steer, pedal, off = self.sums / steps
        errors = {"steer_error": float(np.sqrt(steer)), "pedal_error": float(np.sqrt(pedal))}
        return {
            **(errors if self.taught else {}),
            "cte_mean": float(off),
            "episodes": float(len(ends)),
            "return": float(returns.mean()),
            "return_cvar": cvar(returns, 0.05),
            "violations": float(sum(kind > 0 for kind in ends)),
            **{name: float(sum(k == i for k in ends)) for i, name in enumerate(self.kinds) if i},
        }


def sway_speed(v: Any) -> Any:
    """Return the speed (m/s) at which a disturbance's lateral acceleration is a curvature."""
    return np.maximum(v, 3.0)
