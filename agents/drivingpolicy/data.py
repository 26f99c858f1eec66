"""Windows of shards: what the runner would hand the policy at each frame, and what it should say."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steerlab.agents.drivingpolicy.encoders import WINDOW
from steerlab.agents.supervised import Batch
from steerlab.agents.visionnet.mirror import mirror_labels
from steerlab.envs.shards.layout import COMMANDS, STATE
from steerlab.envs.shards.read import Shard
from steerlab.envs.shards.sunnypilot import history
from steerlab.errors import InputError
from steerlab.openpilot.contracts import FEATURES, STRIDE
from steerlab.seeds import generator_seed
from steerlab.types import Singles


class FeatureEpisode(NamedTuple):
    """An episode as a vision network saw it."""

    shard: Shard
    features: Singles  # (F, 512)
    mirrored: bool = False  # whether it saw the mirror images of the frames


class Windows:
    """Examples of episodes for :func:`~steerlab.agents.supervised.fit`.

    A frame is kept once and its windows are put together when they are asked for. Windows that begin
    before the episode have zeros there, as the consumer's queues do.

    Args:
        episodes: Shards with the features of their frames.

    Raises:
        InputError: There is none, or features do not fit a shard.
    """

    def __init__(self, episodes: Iterable[FeatureEpisode]) -> None:
        found = [_examples(seen) for seen in episodes]
        if not found:
            raise InputError("no shard to learn from; give a folder of steerlab collect")
        frames, self.window = [np.zeros((1, FEATURES), np.float32)], []
        first = 1
        for _, features, ticks in found:
            wanted = ticks[:, None] - STRIDE * np.arange(WINDOW - 1, -1, -1)
            frame = np.minimum(np.searchsorted(ticks, wanted), len(ticks) - 1)
            self.window.append(np.where(ticks[frame] == wanted, first + frame, 0))
            frames.append(features)
            first += len(features)
        self.features = torch.as_tensor(np.concatenate(frames))
        self.index = torch.as_tensor(np.concatenate(self.window))
        self.parts = {
            name: torch.as_tensor(np.concatenate([part[name] for part, *_ in found]))
            for name in found[0][0]
        }

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, indices: Tensor) -> Batch:
        """Return the examples at ``indices`` (B,).

        ``features`` (B, 25, 512), ``desire`` (B, 25, 8), ``traffic`` (B, 2), ``car`` (B, 2) speed (m/s)
        and delay (s); ``command`` (B, 2) the teacher's curvature (1/m) and acceleration (m/s^2), ``now``
        (B, 2) acceleration (m/s^2) and yaw rate (rad/s), ``plan`` (B, 33, 15), ``known`` (B, 33) and
        ``desired`` (B,).
        """
        batch = {name: values[indices] for name, values in self.parts.items()}
        return batch | {"features": self.features[self.index[indices]]}


def _examples(
    seen: FeatureEpisode,
) -> tuple[dict[str, NDArray[np.generic]], Singles, NDArray[np.integer]]:
    """Return the examples of an episode, the features of its frames, and their ticks."""
    shard, features, mirrored = seen
    if features.shape != (shard.frames, FEATURES):
        raise InputError(
            f"features of {str(shard.path)!r} have shape {features.shape}, must be "
            f"({shard.frames}, {FEATURES}); make them again"
        )
    ticks = shard.read("frame_tick")
    state, commands = shard.read("state")[ticks], shard.read("commands")[ticks]
    column = {name: state[:, i] for i, name in enumerate(STATE)}
    taught = [COMMANDS.index(name) for name in ("teacher_curvature", "teacher_acceleration")]
    side = np.float32(-1.0 if mirrored else 1.0)
    told = {
        name: shard.read(name) for name in ("desire", "traffic_convention", "plan", "desire_state")
    }
    told = mirror_labels(told) if mirrored else told
    parts: dict[str, NDArray[np.generic]] = {
        "desire": history(told["desire"], ticks),
        "traffic": told["traffic_convention"],
        "car": shard.read("lateral_control_params"),
        "command": commands[:, taught] * np.array([side, 1.0], np.float32),
        "now": np.stack([column["acceleration"], side * column["yaw_rate"]], 1).astype(np.float32),
        "plan": told["plan"],
        "known": shard.read("plan_valid").astype(np.float32),
        "desired": told["desire_state"].argmax(1),
    }
    return parts, np.asarray(features, np.float32), ticks


#: Labels that make features of the truth, with what counts as one unit of each.
_TRUTH = {
    "lane_lines": 3.0, "lane_lines_prob": 1.0, "road_edges": 5.0, "lead": 20.0, "lead_prob": 1.0,
    "pose": 5.0, "desire_state": 1.0,
}  # fmt: skip


def true_features(shard: Shard, mirrored: bool = False) -> Singles:
    """Return features (F, 512) of the labels, or of their mirror images, for studies without a vision network.

    A seeded projection of lines, edges, leads and motion as they truly are: what a vision network
    without error would give. No network that looks at pictures has them.
    """
    columns = []
    masks = ("lane_lines_valid", "road_edges_valid", "lead_valid")
    told = {name: shard.read(name) for name in (*_TRUTH, *masks)}
    told = mirror_labels(told) if mirrored else told
    for name, unit in _TRUTH.items():
        values = told[name]
        if f"{name}_valid" in masks:
            values = values * told[f"{name}_valid"][..., None]
        columns.append(np.clip(values.reshape(len(values), -1) / unit, -5.0, 5.0))
    truth = np.concatenate(columns, axis=1)
    rng = np.random.default_rng(generator_seed("data", 0, FEATURES))
    projection = rng.normal(0.0, truth.shape[1] ** -0.5, (truth.shape[1], FEATURES))
    return np.asarray(truth @ projection, np.float32)


def with_true_features(shards: Sequence[Shard], mirror: bool = False) -> list[FeatureEpisode]:
    """Return episodes with :func:`true_features`; with ``mirror`` their mirror images too."""
    sides = (False, True) if mirror else (False,)
    return [FeatureEpisode(s, true_features(s, side), side) for side in sides for s in shards]
