"""Windows of an invented drive, for tests of what learns from shards: no pictures, no files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from steerlab.agents.drivingpolicy.data import FeatureEpisode
from steerlab.envs.shards.layout import COMMANDS, STATE
from steerlab.openpilot.contracts import contract
from steerlab.openpilot.plan import FREE, Near, PlanShape


@dataclass
class Invented:
    """What of a shard a policy reads."""

    arrays: dict[str, NDArray[Any]]
    attributes: dict[str, Any]
    path: Path = Path("invented")

    @property
    def frames(self) -> int:
        return len(self.arrays["frame_tick"])

    def read(self, name: str) -> NDArray[Any]:
        return self.arrays[name]


def invented(seed: int, frames: int = 40, reach: int = 33) -> FeatureEpisode:
    """Return a drive whose command and plan follow from two numbers that the features tell.

    The bend ahead (rad/s at all later knots) is either left or right, by chance: nothing tells which.
    """
    rng = np.random.default_rng(seed)
    ticks = 3 + 4 * np.arange(frames)
    steer, speed = rng.normal(0, 0.005, frames), rng.uniform(8, 20, frames)
    side = rng.choice([-1.0, 1.0], frames)
    state = np.zeros((ticks[-1] + 1, len(STATE)))
    state[ticks, STATE.index("speed")] = speed
    commands = np.zeros((len(state), len(COMMANDS)), np.float32)
    commands[ticks, COMMANDS.index("teacher_curvature")] = steer
    shape = PlanShape(contract("openpilot-0.10.0").command)
    flat = torch.zeros(frames)
    near = Near(
        torch.as_tensor(speed, dtype=torch.float32), flat, flat,
        torch.as_tensor(steer, dtype=torch.float32), flat, flat + 0.35, flat + 0.5,
    )  # fmt: skip
    bends = torch.as_tensor(0.1 * side, dtype=torch.float32)[:, None, None].repeat(1, 1, FREE)
    plan = shape(near, bends, torch.zeros(frames, 1, FREE))[:, 0].numpy()
    features = np.zeros((frames, 512), np.float32)
    features[:, 0], features[:, 1], features[:, 2] = 200 * steer, speed / 10, 1.0
    known = np.arange(33)[None] < reach
    desire = np.zeros((len(state), 8), np.float32)
    desire[:, 0] = 1.0
    arrays = {
        "frame_tick": ticks, "state": state, "commands": commands, "desire": desire,
        "traffic_convention": np.tile(np.array([1, 0], np.float32), (frames, 1)),
        "lateral_control_params": np.stack([speed, np.full(frames, 0.2)], 1).astype(np.float32),
        "plan": plan, "plan_valid": np.repeat(known, frames, 0), "desire_state": desire[ticks],
    }  # fmt: skip
    return FeatureEpisode(Invented(arrays, {}), features)  # type: ignore[arg-type]
