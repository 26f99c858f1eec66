"""Drive an exported pair from camera to command over held-out episodes of CarlaDriver-v0.

The files run in openpilot's runner: image and feature queues, plan to command, smoothing. Beside them
drive the preview controller, which sees the true state, and a plan that is always straight ahead. Prints
metres per violation by kind, the offset from the path and comfort, for each scenario and for all of them.
map= takes the scenarios to a map that was not trained on; weather is drawn anew in every episode.

Examples:
  steerlab evaluate-driving policy=out/driving_policy.onnx vision=out/driving_vision.onnx
  steerlab evaluate-driving policy=out/driving_policy.onnx vision=out/driving_vision.onnx "scenario=[highway_follow]" map=Town06.xodr traffic=0 films=1
  steerlab evaluate-driving policy=out/driving_supercombo.onnx contract=openpilot-supercombo-2026-07
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.agents.drivingpolicy.closed_loop import (
    Course,
    DriveFigures,
    MakeDriver,
    PairFiles,
    course_name,
    drive_figures,
    film,
)
from steerlab.agents.drivingpolicy.driver import StraightDriver
from steerlab.agents.drivingpolicy.report import drive_course, pooled, print_figures
from steerlab.envs.carla_driver.scenarios import as_scenario
from steerlab.envs.kinematic_driver.record import Record
from steerlab.errors import InputError, unknown_name
from steerlab.files import atomic_path
from steerlab.film import write_film
from steerlab.openpilot.contracts import contract
from steerlab.options import option
from steerlab.study import study

BESIDE: dict[str, MakeDriver] = {"preview": PreviewDriver, "straight": StraightDriver}
FIGURES = "driving.json"


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    policy: str = option("", "ONNX file of the policy, or of a supercombo")
    vision: str = option("", "ONNX file of the vision network; '' for a supercombo")
    contract: str = option("openpilot-0.10.0", "the release whose modeld is played")
    scenario: tuple[str, ...] = option(("country_road",), "by name, or paths of .yaml files")
    map: str | None = option(None, "a shipped map or an .xodr file, instead of the scenario's")
    traffic: int | None = option(None, "other vehicles, instead of the scenario's")
    episodes: int = option(10, "held-out episodes of each scenario, at most 10,000")
    steps: int = option(500, "length of an episode in steps of 0.05 s")
    beside: tuple[str, ...] = option(("preview", "straight"), "also drive: preview, straight")
    films: int = option(0, "episodes of each scenario that are filmed")
    processes: int = option(1, "processes that drive")


def run(config: Config, output: Path) -> dict[str, dict[str, DriveFigures]]:
    """Drive, print, write; return the figures by course and driver."""
    torch.set_num_threads(1)
    courses = _courses(config)
    pair = PairFiles(config.policy, config.vision, config.contract)
    pair(courses[0].env())  # says now what is wrong with the files
    drivers: dict[str, MakeDriver] = {"pair": pair} | {n: BESIDE[n] for n in config.beside}
    found: dict[str, dict[str, DriveFigures]] = {}
    records: dict[str, list[Record]] = {name: [] for name in drivers}
    for course in courses:
        title = course_name(course)
        for name, make in drivers.items():
            record = drive_course(
                make, course, config.episodes, f"{name}: {title}", config.processes
            )
            records[name].append(record)
        found[title] = {name: drive_figures(r[-1]) for name, r in records.items()}
        print_figures(found[title], f"{config.episodes} held-out episodes: {title}")
        _write(found, output)
        for number in range(config.films):
            stem = f"{course.scenario.name}_{number}"
            print(f"film: {write_film(film(pair, course, number), output / stem)}")
    if len(courses) > 1:
        found["all"] = {name: drive_figures(pooled(r)) for name, r in records.items()}
        print_figures(found["all"], f"{config.episodes * len(courses)} held-out episodes")
        _write(found, output)
    return found


def _courses(config: Config) -> list[Course]:
    """Return what is to be driven.

    Raises:
        InputError: An option is out of range.
    """
    contract(config.contract)
    if not config.policy:
        raise InputError("policy= is missing; give an ONNX file of steerlab export-policy")
    if not config.scenario:
        raise InputError("scenario=[...] needs at least one name")
    for name in config.beside:
        if name not in BESIDE:
            raise unknown_name("driver to set beside", name, BESIDE)
    for name, least, most in (
        ("episodes", 1, 10_000), ("steps", 50, 4000), ("films", 0, config.episodes),
        ("processes", 1, 256),
    ):  # fmt: skip
        if not least <= getattr(config, name) <= most:
            raise InputError(f"{name}={getattr(config, name)} must be in {least}..{most}")
    return [
        Course(as_scenario(name), config.map, config.traffic, config.steps)
        for name in config.scenario
    ]


def _write(found: dict[str, dict[str, DriveFigures]], output: Path) -> None:
    told: dict[str, Any] = {
        course: {name: figures.as_dict() for name, figures in by_driver.items()}
        for course, by_driver in found.items()
    }
    with atomic_path(output / FIGURES) as temporary:
        temporary.write_text(json.dumps(told, indent=1, allow_nan=False), encoding="utf-8")


main = study(Config, run)

if __name__ == "__main__":
    main()
