"""Collecting of episodes: drive, disturbed; render; label; write one shard."""

import dataclasses
import hashlib
import json
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import steerlab
from steerlab.envs.carla_driver.env import CarlaDriverVectorEnv
from steerlab.envs.carla_driver.recording import Recorder
from steerlab.envs.carla_driver.scenarios import Scenario, as_scenario
from steerlab.envs.carla_driver.server.link import Link
from steerlab.envs.carla_driver.windshield import Windshield
from steerlab.envs.kinematic_driver.dynamics import DT, encode_action
from steerlab.envs.kinematic_driver.numpy_backend import NUMPY
from steerlab.envs.labels.labels import labels
from steerlab.envs.labels.plan import Teacher, situation_at
from steerlab.envs.labels.record import Record
from steerlab.envs.shards.layout import COMMANDS, PLANES, STATE, shard_name
from steerlab.envs.shards.write import ShardWriter
from steerlab.errors import InputError
from steerlab.openpilot.contracts import DESIRES, FRAME_HZ, CommandRule

#: A driver in a hurry takes bends this much faster than planned, if this many m ahead nothing is on the road.
HURRY, FREE = 1.8, 60.0
_BLACK = (np.zeros(PLANES, np.uint8), np.zeros(PLANES, np.uint8))
#: Made with the environment; has ``reset(observation, info)``, ``propose(info, observation)``, which
#: returns curvature (1/m) and acceleration (m/s^2), (1,) each, and ``keep(info, actions)``.
MakeDriver = Callable[[CarlaDriverVectorEnv], Any]


@dataclass(frozen=True)
class Disturbance:
    """What is added to the driver's commands, so that recoveries are seen."""

    share: float = 0.5  # of the time, in spells
    spell: float = 3.0  # s, mean length of a disturbed spell
    lateral: float = 1.0  # m/s^2, standard deviation
    longitudinal: float = 0.8  # m/s^2
    time: float = 1.0  # s, over which the lateral one changes
    slow: float = 3.0  # s, the same of the longitudinal one
    hasty: float = 0.5  # share of the time, in spells, in which bends are taken too fast
    haste: float = 10.0  # s, mean length of such a spell

    def draw(self, ticks: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return lateral and longitudinal accelerations (ticks, 2) to add, m/s^2."""
        keep = np.exp(-DT / np.array([self.time, self.slow]))
        chance = rng.standard_normal((ticks, 2)) * np.sqrt(1 - keep**2)
        value, active = rng.standard_normal(2), _spells(ticks, self.share, self.spell, rng)
        out = np.zeros((ticks, 2))
        for t in range(ticks):
            value = keep * value + chance[t]
            out[t] = value * active[t]
        return out * [self.lateral, self.longitudinal]

    def in_haste(self, ticks: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Return when bends are taken too fast, (ticks,); never without disturbances."""
        return _spells(ticks, self.hasty if self.share > 0 else 0.0, self.haste, rng)


def _spells(ticks: int, share: float, length: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return ``share`` of the ticks, in spells that last ``length`` s on average, (ticks,)."""
    switch, active = rng.random(ticks), rng.random() < share
    out = np.zeros(ticks, bool)
    for t in range(ticks):
        mean = length if active else length * (1 - share) / max(share, 1e-6)
        if 0 < share < 1 and switch[t] < DT / mean:
            active = not active
        out[t] = active
    return out


@dataclass(frozen=True)
class Episode:
    """One episode that is to be collected."""

    scenario: Scenario
    seed: int
    map: str | None = None  # that of the scenario by default
    steps: int | None = None  # that of the scenario by default
    hz: int = 5  # frames a second, 5 or 20
    disturbance: Disturbance = dataclasses.field(default_factory=Disturbance)
    pictures: bool = True  # False leaves frames black: state and labels are there all the same
    backend: str = "embedded"

    @property
    def map_name(self) -> str:
        """Return the map's name without folder and suffix."""
        usual = self.scenario.map if self.backend == "embedded" else self.scenario.town
        return Path(self.map or usual).stem

    @property
    def name(self) -> str:
        """Return the name of the shard."""
        return shard_name(self.scenario.name, self.map_name, self.seed)


def collect(
    episode: Episode,
    folder: str | Path,
    make_driver: MakeDriver,
    teacher: Teacher,
    rule: CommandRule,
    progress: Callable[[], Any] = lambda: None,
    server: Link | None = None,
) -> Path:
    """Drive one episode and write its shard.

    What comes out depends on the episode only, not on who collected before; on a CARLA server that
    holds for what is drawn.

    Args:
        episode: What to drive.
        folder: Where the shard goes.
        make_driver: Who drives; its commands are disturbed.
        teacher: Whose recovery is the plan label.
        rule: The contract's rule, which reads commands from plans.
        progress: Called after every frame.
        server: The server, for the backend ``server``; its options ask for cameras.

    Raises:
        InputError: The shard exists, an extra is missing, or an argument is out of range.
        ServerLost: The server failed; the episode leaves nothing behind and can be tried again.
    """
    stride = _stride(episode.hz)
    with _driven(episode, server) as env, ShardWriter(Path(folder) / episode.name) as writer:
        rng = np.random.default_rng([episode.seed, 4])
        phase = int(rng.integers(stride))
        added = episode.disturbance.draw(env.steps, rng)
        hasty = episode.disturbance.in_haste(env.steps, rng)
        observation, info = env.reset(seed=episode.seed)
        driver = make_driver(env)
        driver.reset(observation, info)
        recorder, frames = Recorder(env), []
        shield = env.windshield(0)
        for tick in range(env.steps):
            scene = env.scene(0)
            v = np.asarray(info["speed"], float)
            asked = driver.propose(info, observation)
            if hasty[tick]:
                asked = _hurried(asked, info)
            curvature, pull = _disturbed(asked, added[tick], v)
            recorder.add(scene, (float(curvature[0]), float(pull[0])), float(info["stop_gap"][0]))
            if tick % stride == phase:
                writer.add_frame(*(shield.planes(scene) if episode.pictures else _BLACK))
                frames.append(tick)
                progress()
            actions = np.stack(encode_action(NUMPY, curvature, pull, v), 1).astype(np.float32)
            driver.keep(info, actions)
            observation, _, terminated, truncated, info = env.step(actions)
            if terminated[0] or truncated[0]:
                break
        violation = int(env.simulator.violation[0])
        record = recorder.finish(shield.mount)
        arrays = _arrays(record, np.array(frames), teacher, rule)
        return writer.finish(arrays, _attributes(episode, env, shield, record, phase, violation))


def _driven(episode: Episode, server: Link | None) -> closing[CarlaDriverVectorEnv]:
    """Return the environment of an episode, which is closed after the block."""
    return closing(
        CarlaDriverVectorEnv(
            1, scenario=episode.scenario, map=episode.map, max_episode_steps=episode.steps,
            threads=1, backend=episode.backend, server=server,
        )
    )  # fmt: skip


def _stride(hz: int) -> int:
    """Return the ticks from one frame to the next."""
    if hz not in (5, FRAME_HZ):
        raise InputError(f"hz={hz} must be 5 or {FRAME_HZ}")
    return FRAME_HZ // hz


def _hurried(
    asked: tuple[NDArray[Any], NDArray[Any]], info: dict[str, Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return curvature (1/m) and acceleration (m/s^2) of a driver in a hurry, if nothing is ahead."""
    free = np.minimum(info["lead_gap"], info["stop_gap"]) > FREE
    speed = np.minimum(info["cruise_speed"], HURRY * info["planned_speed"])
    held = np.clip(0.8 * (speed - info["speed"]), -1.2, 1.2)
    return asked[0], np.where(free, np.maximum(asked[1], held), asked[1])


def _disturbed(
    asked: tuple[NDArray[Any], NDArray[Any]], added: NDArray[np.float64], v: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return curvature (1/m) and acceleration (m/s^2) with what is added (2,) to them, m/s^2."""
    curvature, pull = asked
    return curvature + added[0] / np.maximum(v, 4.0) ** 2, pull + added[1] * (v > 1.0)


def _arrays(
    record: Record, frames: NDArray[np.intp], teacher: Teacher, rule: CommandRule
) -> dict[str, NDArray[Any]]:
    """Return all arrays of a shard but its pictures."""
    state = record.state
    columns = {
        "x": record.position[:, 0], "y": record.position[:, 1], "z": record.position[:, 2],
        "roll": record.rpy[:, 0], "pitch": record.rpy[:, 1], "heading": record.rpy[:, 2],
        "speed": state.v, "acceleration": state.a, "curvature": state.k,
        "yaw_rate": record.yaw_rate, "s": state.s, "offset": state.d, "heading_error": state.psi,
    }  # fmt: skip
    taught = teacher(situation_at(record, np.arange(record.ticks)))
    return {
        "frame_tick": frames,
        "state": np.stack([columns[name] for name in STATE], axis=1),
        "commands": np.column_stack([record.commands, *taught]),
        "desire": np.eye(len(DESIRES))[record.desire],
        **labels(record, frames, teacher, rule),
    }


def _attributes(
    episode: Episode,
    env: CarlaDriverVectorEnv,
    shield: Windshield,
    record: Record,
    phase: int,
    violation: int,
) -> dict[str, Any]:
    """Return the description that a shard holds."""
    from steerlab.envs.carla_driver.env import VIOLATIONS

    scenario = dataclasses.asdict(episode.scenario)
    return {
        "package": steerlab.__version__,
        "commit": commit(),
        "scenario": scenario,
        "scenario_hash": scenario_hash(episode.scenario),
        "map": episode.map_name if episode.backend == "embedded" else env.road_map.name,
        "map_hash": env.road_map.hash,
        "seed": episode.seed,
        "backend": env.backend,
        "weather": shield.weather,
        "look": {"weather": dataclasses.asdict(shield.look.weather), "seed": shield.look.seed},
        "mount": dataclasses.asdict(shield.mount),
        "vehicle": record.vehicle._asdict(),
        "hz": episode.hz,
        "frame_stride": FRAME_HZ // episode.hz,
        "frame_phase": phase,
        "state": list(STATE),
        "commands": list(COMMANDS),
        "desires": list(DESIRES),
        "disturbance": dataclasses.asdict(episode.disturbance),
        "pictures": episode.pictures,
        "ended": VIOLATIONS[violation],
    }


def scenario_hash(scenario: Scenario) -> str:
    """Return SHA-256 of a scenario's values."""
    text = json.dumps(dataclasses.asdict(as_scenario(scenario)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def commit() -> str:
    """Return the git commit that this package is checked out at, empty where it is not."""
    home = Path(steerlab.__file__).resolve().parents[1]
    try:
        found = subprocess.run(
            ["git", "-C", str(home), "rev-parse", "--show-toplevel", "HEAD"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    top, head = found.stdout.split()
    return head if Path(top) == home else ""
