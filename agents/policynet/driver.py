"""A policy at the wheel of KinematicDriver-v0 or a task with its car, with openpilot's runner between them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from steerlab.agents.policynet.features import encode
from steerlab.agents.policynet.model import LONGITUDINAL_DELAY, Memory, PolicyNet, plan_command
from steerlab.envs.kinematic_driver import dynamics
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.numpy_backend import NUMPY
from steerlab.envs.kinematic_driver.observation import LAYOUT
from steerlab.openpilot.commands import Command
from steerlab.openpilot.contracts import Contract
from steerlab.openpilot.engines import Network, TorchEngine
from steerlab.openpilot.in_graph import Packed
from steerlab.openpilot.runner import Asked, Frame, Policy, Runner, Step
from steerlab.types import Array, Floats


class OpenpilotDriver:
    """Drives all rows with what openpilot would publish: plan to command, smoothed.

    The runner gets what modeld gets in a car: measured speed, learned delay, desire, traffic
    convention, and the features of the frame. The task then does what openpilot's controls and a
    car do with the command. Actions are the command in other units.

    Args:
        env: The environment that is driven.
        contract: The release whose modeld is played.
        network: The policy, from :func:`~steerlab.openpilot.engines.load_network`, or a
            :class:`FramePolicy`.
        vision: A vision network, which then sees the rendered road instead of the features. The
            set speed is not in its pictures; as in openpilot, the cruise control holds it.
    """

    def __init__(
        self,
        env: KinematicDriverVectorEnv,
        contract: Contract,
        network: Network | Policy,
        vision: Network | None = None,
    ) -> None:
        self.env = env
        self.runner = Runner(contract, network, vision=vision, rows=env.num_envs)
        self.step: Step | None = None

    def reset(self, observation: Any, info: dict[str, Any], rows: Any = slice(None)) -> None:
        """Forget the past: new episodes have begun in ``rows``."""
        self.runner.reset(rows)

    def __call__(self, observation: Any, info: dict[str, Any]) -> NDArray[np.float32]:
        """Return actions (N, 2)."""
        frame, asked = self.ask(observation)
        actions = self.act(asked.command, frame, observation, info["speed"].astype(float))
        self.step = Step(self.runner.last, asked.command, dict(asked.outputs), asked.raw)
        return actions.astype(np.float32)

    def ask(self, observation: Any) -> tuple[Frame, Asked]:
        """Return what modeld knows at this frame, and what the network asks for."""
        parts = LAYOUT.split(observation)
        frame = self.runner.observe(
            v_ego=np.maximum(parts["speed"][:, 0], 0.0),
            desire=parts["desire"],
            traffic=parts["traffic_convention"],
            lateral_delay=parts["lat_delay"][:, 0],
            longitudinal_delay=LONGITUDINAL_DELAY,
            **self._seen(observation),
        )
        assert frame is not None  # only a dropped frame gives none
        return frame, self.runner.policy.ask(frame)

    def act(self, asked: Command, frame: Frame, observation: Any, v: Array) -> Array:
        """Publish a command; return the actions (N, 2) that it means at the true speed ``v``."""
        curvature, pedal = self.publish(asked, frame, observation, v)
        return np.stack(dynamics.encode_action(NUMPY, curvature, pedal, v), 1)

    def publish(
        self, asked: Command, frame: Frame, observation: Any, v: Floats
    ) -> tuple[Floats, Floats]:
        """Publish a command; return curvature (1/m) and acceleration (m/s^2), (N,) each.

        A network that sees pictures does not know the set speed: the cruise control holds it.
        """
        published = self.runner.publish(asked, frame.v_ego)
        pedal = published.acceleration
        if self._sees_pictures:
            set_speed = LAYOUT.split(observation)["cruise_speed"][:, 0]
            pedal = np.minimum(pedal, cruise_acceleration(v, set_speed))
        return published.curvature, pedal

    @property
    def _sees_pictures(self) -> bool:
        return self.runner.shows_images

    def _seen(self, observation: Any) -> dict[str, Any]:
        """Return what the runner gets of the road: features, or pictures."""
        if not self._sees_pictures:
            return {"features": encode(observation)}
        pictures = [self.env.planes(row) for row in range(self.env.num_envs)]
        narrow, wide = (np.stack(planes) for planes in zip(*pictures, strict=True))
        return {"image": narrow, "wide_image": wide}


class FramePolicy:
    """A policy network in torch that keeps its own history: what a training drives with.

    It says the same commands as the whole window in an engine does, in a fraction of the time.

    Args:
        network: The policy. Its weights must not change between two resets of all rows.
        rows: Number of rows.
    """

    def __init__(self, network: PolicyNet, rows: int) -> None:
        self.network, self.memory = network, Memory(network, rows)

    def reset(self, rows: Any) -> None:
        """Forget the past of ``rows``."""
        self.memory.reset(torch.as_tensor(rows) if isinstance(rows, np.ndarray) else rows)

    @torch.no_grad()
    def ask(self, frame: Frame) -> Asked:
        """Take a frame; return the command that the contract's rule reads from the plan."""
        assert frame.features is not None
        car = torch.as_tensor(frame.car)
        parts = self.memory.step(
            torch.as_tensor(frame.features),
            torch.as_tensor(frame.desires[:, -1]),
            torch.as_tensor(frame.traffic),
            car if "lateral_control_params" in self.network.feeds else None,
        )
        given = {
            "car": car, "t_lateral": frame.t_lateral, "t_longitudinal": frame.t_longitudinal,
        }  # fmt: skip
        curvature, pedal = plan_command(self.network, parts, given)
        stops = np.zeros(len(frame.v_ego), bool)
        return Asked(Command(curvature.numpy().astype(float), pedal.numpy().astype(float), stops))


def torch_network(policy: PolicyNet) -> Network:
    """Return a policy that is not exported as the runner takes it."""
    model = policy.model
    return Network(TorchEngine(Packed(policy, model), list(model.inputs)), model.slices)


def torch_driver(
    policy: PolicyNet, vision: Network | None = None
) -> Callable[[KinematicDriverVectorEnv], OpenpilotDriver]:
    """Return what drives with a policy that is not exported, all rows in one call."""
    return lambda env: OpenpilotDriver(env, policy.contract, torch_network(policy), vision)


def frame_driver(policy: PolicyNet) -> Callable[[KinematicDriverVectorEnv], OpenpilotDriver]:
    """Return what drives as a training does: the same commands as :func:`torch_driver`, faster.

    It has no outputs but the command.
    """
    return lambda env: OpenpilotDriver(env, policy.contract, FramePolicy(policy, env.num_envs))


def cruise_acceleration(speed: Any, set_speed: Any) -> Any:
    """Return the acceleration (m/s^2) up to which openpilot's cruise control lets a model go.

    The limits over speed are openpilot's; the approach to the set speed is a proportional one.
    """
    most = np.interp(speed, (0.0, 10.0, 25.0, 40.0), (1.6, 1.2, 0.8, 0.6))
    return np.clip(0.8 * (set_speed - speed), -dynamics.MAX_BRAKING, most)
