"""Inputs of a policy that were recorded while it drove, for the checks of the exported file."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.agents.policynet.driver import OpenpilotDriver
from steerlab.agents.policynet.model import PolicyNet
from steerlab.agents.policynet.port import PortedPolicy
from steerlab.agents.policynet.task import task_named
from steerlab.envs.kinematic_driver.dynamics import DT
from steerlab.envs.kinematic_driver.observation import LAYOUT
from steerlab.openpilot.engines import Network, TorchEngine
from steerlab.openpilot.in_graph import Packed
from steerlab.openpilot.probe import Probe
from steerlab.seeds import REFERENCE_IO


class _Recorder(TorchEngine):
    """Keeps the inputs of its last call."""

    last: Mapping[str, NDArray[Any]]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.last = {name: np.array(values) for name, values in inputs.items()}
        return super().run(inputs)


def record_probe(
    network: PolicyNet | PortedPolicy,
    rows: int = 24,
    frame: int = 120,
    vision: Network | None = None,
) -> Probe:
    """Return the inputs of ``rows`` cars at one frame, and what they drove from there.

    Args:
        network: The policy, which drives.
        rows: Cars, each on a road of its own.
        frame: The frame; from 96 on the window is full.
        vision: The vision network that makes the features, where one does.
    """
    engine = _Recorder(Packed(network, network.model), list(network.model.inputs))
    env = task_named(network.task).env(rows)
    driver = OpenpilotDriver(env, network.contract, Network(engine, network.model.slices), vision)
    observation, info = env.reset(seed=REFERENCE_IO)
    driver.reset(observation, info)
    for _ in range(frame):
        observation, *_, info = env.step(driver(observation, info))
    action = driver(observation, info)
    inputs, speed = engine.last, observation[:, LAYOUT["speed"]][:, 0].copy()
    driven = np.zeros(rows)
    delay = observation[:, LAYOUT["lat_delay"]][:, 0] + network.contract.command.lat_smooth_s
    for step in range(int(delay.max() / DT) + 2):
        observation, *_, info = env.step(action)
        driven = np.where(step * DT <= delay, info["curvature"], driven)
        action = driver(observation, info)
    return Probe(
        inputs,
        np.empty((0, network.model.length), np.float32),
        driven_curvature=driven,
        v_ego=np.maximum(speed, 0.0),
    )
