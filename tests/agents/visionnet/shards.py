"""Small shards of made-up drives, with pictures that tell where the car is."""

import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from steerlab.agents.classical.route_driver import route_driver
from steerlab.envs.cameras.geometry import Mount
from steerlab.envs.labels.labels import labels
from steerlab.envs.shards import layout, write
from steerlab.openpilot.contracts import contract
from tests.envs.labels.drives import drive

FRAMES = 12
#: Map, course of the road, speed (m/s).
EPISODES = (("north", "straight", 10.0), ("north", "arc", 12.0), ("south", "arc", 8.0))


def write_shards(folder: Path) -> Path:
    """Write one shard an episode into ``folder``."""
    for seed, (place, course, speed) in enumerate(EPISODES):
        _write(folder / layout.shard_name("test", place, seed), place, course, speed, seed)
    return folder


def _write(path: Path, place: str, course: str, speed: float, seed: int) -> None:
    cars = [(75.0, 0.0, 9.0)] if seed else []  # the drive begins at 40 m
    record = drive(course, ticks=4 * FRAMES + 60, speed=speed, cars=cars)
    ticks = 2 + 4 * np.arange(FRAMES)
    rng = np.random.default_rng(seed)
    arrays = {
        "frame_tick": ticks,
        "state": rng.normal(size=(record.ticks, len(layout.STATE))),
        "commands": rng.normal(size=(record.ticks, 4)),
        "desire": np.eye(8)[np.zeros(record.ticks, int)],
        **labels(record, ticks, route_driver, contract("openpilot-0.10.0").command),
    }
    # These roads have no paint; let the two lines of the own lane have some.
    arrays["lane_lines_prob"] = np.tile([0.1, 0.9, 0.8, 0.2], (FRAMES, 1))
    told = dict.fromkeys(layout.ATTRIBUTES[2:-1], "x")
    with write.ShardWriter(path) as writer:
        for frame in range(FRAMES):
            writer.add_frame(*(picture(seed, frame, camera) for camera in (0, 1)))
        writer.finish(arrays, {**told, "map": place, "mount": asdict(Mount())})


def picture(seed: int, frame: int, camera: int) -> np.ndarray:
    """Return planes whose first value tells the frame."""
    planes = np.full(layout.PLANES, 98 + 21 * camera, np.uint8)  # shards keep multiples of 7
    planes[:4, :, : 10 + 10 * seed] = 28
    planes[0, 0, 0] = 7 * (frame + 1)
    return planes


if __name__ == "__main__":
    write_shards(Path(sys.argv[1]))
