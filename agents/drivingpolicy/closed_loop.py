"""Closed-loop drives of CarlaDriver-v0 and their figures: metres per violation, offset, comfort.

A pair learns from its pictures and may fail at any moment, so what counts is how far it gets: all metres
of all episodes over all violations, with a bootstrap interval over episodes. Offsets are those of
:mod:`steerlab.envs.kinematic_driver.record`: what a violation cut off counts as infinitely far off.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from steerlab.agents.drivingpolicy.driver import PairDriver
from steerlab.envs.cameras.geometry import NARROW, WIDE
from steerlab.envs.carla_driver.course import Course
from steerlab.envs.carla_driver.env import VIOLATIONS, CarlaDriverVectorEnv
from steerlab.envs.carla_driver.scenarios import as_scenario
from steerlab.envs.kinematic_driver.record import Record, drive_once, join, offset_figures
from steerlab.envs.kinematic_driver.roads import START
from steerlab.envs.shards.pictures import DRAWN, calibrated_view, draw_labels
from steerlab.openpilot.contracts import contract
from steerlab.openpilot.engines import Network, load_network
from steerlab.seeds import HELD_OUT
from steerlab.types import Bytes

#: Makes who drives an environment; picklable, for other processes.
MakeDriver = Callable[[CarlaDriverVectorEnv], Any]
RESAMPLES = 2000
FRAME_RATE = 10  # pictures of a film a second, one every second step


@dataclass(frozen=True)
class PairFiles:
    """The files of an exported pair, or of a supercombo; a driver can be made of them in any process."""

    policy: str
    vision: str = ""
    contract: str = "openpilot-0.10.0"

    def __call__(self, env: CarlaDriverVectorEnv) -> PairDriver:
        """Return who drives.

        Raises:
            InputError: A file is absent, or does not fit the contract or the other one.
        """
        vision = load_network(self.vision) if self.vision else None
        return PairDriver(env, contract(self.contract), load_network(self.policy), vision)


def pair_loop(
    contract_: str, episodes: int, vision: str | Path = ""
) -> Callable[[Network], dict[str, float]]:
    """Return what ``verify`` calls to drive a policy that sees pictures.

    It drives held-out episodes of the scenario ``country_road`` without other vehicles, from camera to command.

    Args:
        contract_: The release whose modeld is played.
        episodes: How many.
        vision: ONNX file of the vision network; '' for a supercombo.

    Raises:
        InputError: The contract is unknown, or the vision file cannot be read.
    """
    chosen, course = contract(contract_), Course(as_scenario("country_road"), traffic=0)
    seen = load_network(vision) if vision else None

    def run(policy: Network) -> dict[str, float]:
        def make(env: CarlaDriverVectorEnv) -> PairDriver:
            return PairDriver(env, chosen, policy, seen)

        numbers = tqdm(range(episodes), unit="episode", desc="closed loop", leave=False)
        found = drive_figures(join([drive_episode(make, course, n) for n in numbers]))
        names = (
            "cte_p50_steady",
            "cte_p95_steady",
            "lane_kept",
            "jerk_rms",
            "progress",
            "violations",
        )
        return {name: float(getattr(found, name)) for name in names}

    return run


def drive_episode(make: MakeDriver, course: Course, number: int) -> Record:
    """Drive one held-out episode of a course."""
    return drive_once(course.env(), make, HELD_OUT + number)


@dataclass(frozen=True)
class DriveFigures:
    """What N episodes were like."""

    episodes: int
    km: float
    violations: int
    by_kind: dict[str, int] = field(default_factory=dict)
    metres_per_violation: float = math.inf
    interval: tuple[float, float] = (0.0, math.inf)  # 95 %, bootstrap over episodes
    cte_p95_start: float = math.nan  # m, the first 2 s
    cte_p50_steady: float = math.nan  # what follows
    cte_p95_steady: float = math.nan
    lane_kept: float = math.nan  # share of the steps within half a metre; those cut off are not
    jerk_rms: float = math.nan  # m/s^3, along
    progress: float = math.nan  # percent of the way at the set speed

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; what is infinite or unknown as None."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def drive_figures(record: Record) -> DriveFigures:
    """Return the figures of a record."""
    metres = (record.end["s"] - START).astype(float)
    kinds = record.end["violation"].astype(int)
    offsets = offset_figures(record)
    kept = np.nan_to_num(record.offset, nan=np.inf) < 0.5
    steps = record.offset.shape[0] * len(kinds)
    unfinished = np.isnan(record.offset) & (kinds == 0)  # an episode that ended at the route's end
    return DriveFigures(
        episodes=len(kinds),
        km=float(metres.sum() / 1000),
        violations=int((kinds > 0).sum()),
        by_kind={
            n: int((kinds == i).sum()) for i, n in enumerate(VIOLATIONS) if i and (kinds == i).any()
        },
        metres_per_violation=ratio(metres, kinds > 0),
        interval=bootstrap(metres, kinds > 0),
        cte_p95_start=offsets.cte_p95_start,
        cte_p50_steady=offsets.cte_p50_steady,
        cte_p95_steady=offsets.cte_p95_steady,
        lane_kept=float(kept.sum() / max(steps - unfinished.sum(), 1)),
        jerk_rms=float(np.sqrt(np.nanmean(np.square(record.jerk, dtype=np.float64)))),
        progress=float(record.end["progress"].mean()),
    )


def ratio(metres: NDArray[np.floating], failed: NDArray[np.bool_]) -> float:
    """Return metres per violation, infinite without one."""
    return float(metres.sum() / failed.sum()) if failed.any() else math.inf


def bootstrap(metres: NDArray[np.floating], failed: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the 95 % interval of metres per violation over episodes drawn with replacement."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(metres), (RESAMPLES, len(metres)))
    drawn = np.sort([ratio(metres[i], failed[i]) for i in picks])
    return float(drawn[int(0.025 * RESAMPLES)]), float(drawn[int(0.975 * RESAMPLES)])


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def film(make: MakeDriver, course: Course, number: int) -> Iterator[Bytes]:
    """Yield pictures (512, 512, 3) of one episode: both cameras with what the pair sees and plans."""
    env = course.env()
    driver = make(env)
    observation, info = env.reset(seed=HELD_OUT + number)
    driver.reset(observation, info)
    shield = env.windshield(0)
    over, step = False, 0
    while not over:
        scene = env.scene(0)
        action = driver(observation, info)
        if step % 2 == 0:
            label = said_label(driver.step.outputs)
            yield np.concatenate([
                draw_labels(picture, calibrated_view(shield.mount, camera), label, shield.mount)
                for picture, camera in zip(shield.pictures(scene), (NARROW, WIDE), strict=True)
            ])  # fmt: skip
        observation, _, terminated, truncated, info = env.step(action)
        over, step = bool(terminated[0] or truncated[0]), step + 1


def said_label(outputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return what a pair says of one car, from the parsed outputs (1, ...), as labels are drawn."""
    said = {name: values[0] for name, values in outputs.items()}
    found = {name: said[name] for name in DRAWN if name in said}
    found["lane_lines_prob"] = said["lane_lines_prob"][1::2]
    for name in ("lane_lines", "road_edges"):
        found[f"{name}_valid"] = np.ones(said[name].shape[:2], bool)
    return found | {"plan_valid": np.ones(len(said["plan"]), bool)}
