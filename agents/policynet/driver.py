"""A policy file at the wheel of KinematicDriver-v0, with openpilot's runner between them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.agents.policynet.feature_extractor import planes
from steerlab.agents.policynet.features import encode
from steerlab.agents.policynet.model import LONGITUDINAL_DELAY, PolicyNet
from steerlab.envs.cameras.geometry import NARROW, WIDE
from steerlab.envs.kinematic_driver import dynamics
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.numpy_backend import NUMPY
from steerlab.envs.kinematic_driver.observation import LAYOUT
from steerlab.openpilot.contracts import Contract
from steerlab.openpilot.engines import Network, TorchEngine
from steerlab.openpilot.in_graph import Packed
from steerlab.openpilot.runner import Runner, Step


class OpenpilotDriver:
    """Drives all rows with what openpilot would publish: plan to command, smoothed.

    The runner gets what a car would tell modeld: measured speed, learned delay, desire, traffic
    convention, and the features of the frame. The task then does what openpilot's controls and a
    car do with the command. Actions are the command in other units.

    Args:
        env: The environment that is driven.
        contract: The release whose modeld is played.
        network: The policy, from :func:`~steerlab.openpilot.engines.load_network`.
        vision: A vision network, which then sees the rendered road instead of the features. The
            set speed is not in its pictures; as in openpilot, the cruise control holds it.
    """

    def __init__(
        self,
        env: KinematicDriverVectorEnv,
        contract: Contract,
        network: Network,
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
        parts = LAYOUT.split(observation)
        self.step = self.runner.step(
            v_ego=np.maximum(parts["speed"][:, 0], 0.0),
            desire=parts["desire"],
            traffic=parts["traffic_convention"],
            lateral_delay=parts["lat_delay"][:, 0],
            longitudinal_delay=LONGITUDINAL_DELAY,
            **self._seen(observation),
        )
        assert self.step is not None  # only a dropped frame gives none
        command = self.step.command
        v, pedal = info["speed"].astype(float), command.acceleration
        if self.runner.vision:
            pedal = np.minimum(pedal, cruise_acceleration(v, parts["cruise_speed"][:, 0]))
        actions = dynamics.encode_action(NUMPY, command.curvature, pedal, v)
        return np.stack(actions, 1).astype(np.float32)

    def _seen(self, observation: Any) -> dict[str, Any]:
        """Return what the runner gets of the road: features, or pictures."""
        if not self.runner.vision:
            return {"features": encode(observation)}
        return {"image": planes(self.env, NARROW), "wide_image": planes(self.env, WIDE)}


def torch_network(policy: PolicyNet) -> Network:
    """Return a policy that is not exported as the runner takes it."""
    model = policy.model
    return Network(TorchEngine(Packed(policy, model), list(model.inputs)), model.slices)


def torch_driver(
    policy: PolicyNet, vision: Network | None = None
) -> Callable[[KinematicDriverVectorEnv], OpenpilotDriver]:
    """Return what drives with a policy that is not exported, all rows in one call."""
    return lambda env: OpenpilotDriver(env, policy.contract, torch_network(policy), vision)


def cruise_acceleration(speed: Any, set_speed: Any) -> Any:
    """Return the acceleration (m/s^2) up to which openpilot's cruise control lets a model go.

    The limits over speed are openpilot's; the approach to the set speed is a proportional one.
    """
    most = np.interp(speed, (0.0, 10.0, 25.0, 40.0), (1.6, 1.2, 0.8, 0.6))
    return np.clip(0.8 * (set_speed - speed), -dynamics.MAX_BRAKING, most)
