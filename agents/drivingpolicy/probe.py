"""Inputs of a policy that were recorded while the pair drove, for the checks of the exported file."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.agents.drivingpolicy.driver import PairDriver
from steerlab.agents.drivingpolicy.network import DrivingPolicy
from steerlab.envs.carla_driver.env import CarlaDriverVectorEnv
from steerlab.envs.kinematic_driver.dynamics import DT
from steerlab.envs.kinematic_driver.observation import LAYOUT
from steerlab.openpilot.engines import Network, TorchEngine
from steerlab.openpilot.in_graph import Packed
from steerlab.openpilot.probe import Probe
from steerlab.seeds import REFERENCE_IO

SCENARIO = "country_road"  # it bends


class _Recorder(TorchEngine):
    """Keeps the inputs of all its calls."""

    def __init__(self, module: Packed, names: list[str]) -> None:
        super().__init__(module, names)
        self.calls: list[dict[str, NDArray[Any]]] = []

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.calls.append({name: np.array(values) for name, values in inputs.items()})
        return super().run(inputs)


def record_drive(policy: DrivingPolicy, vision: Network, frames: int = 48, sets: int = 8) -> Probe:
    """Return inputs of ``sets`` frames of a drive on CarlaDriver, and what was driven from there.

    Args:
        policy: The policy, for the contract that it is exported to.
        vision: The vision network that makes its features.
        frames: Frames of the drive; the sets are spread over its second half.
        sets: K.
    """
    engine = _Recorder(Packed(policy, policy.model), list(policy.model.inputs))
    env = CarlaDriverVectorEnv(1, scenario=SCENARIO, traffic=0)
    driver = PairDriver(env, policy.contract, Network(engine, policy.model.slices), vision)
    observation, info = env.reset(seed=REFERENCE_IO)
    driver.reset(observation, info)
    late = (
        float(LAYOUT.split(observation)["lat_delay"][0, 0]) + policy.contract.command.lat_smooth_s
    )
    wait = int(late / DT) + 1
    driven, speed = [], []
    for _ in range(frames + wait):
        driven.append(float(info["curvature"][0]))
        speed.append(max(float(LAYOUT.split(observation)["speed"][0, 0]), 0.0))
        observation, *_, info = env.step(driver(observation, info))
    picked = np.linspace(frames // 2, frames - 1, sets).astype(int)
    inputs = {
        name: np.concatenate([engine.calls[i][name] for i in picked]) for name in engine.calls[0]
    }
    return Probe(
        inputs,
        np.empty((0, policy.model.length), np.float32),
        driven_curvature=np.array(driven)[picked + wait],
        v_ego=np.array(speed)[picked],
    )
