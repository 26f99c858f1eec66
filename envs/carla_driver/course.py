"""Episodes of one scenario, as a study's options name them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlab.envs.carla_driver.env import CarlaDriverVectorEnv
from steerlab.envs.carla_driver.scenarios import Scenario, as_scenario
from steerlab.errors import InputError
from steerlab.options import option


@dataclass(frozen=True)
class Course:
    """Episodes of one scenario."""

    scenario: Scenario
    map: str | None = None  # that of the scenario by default
    traffic: int | None = None  # other vehicles, that of the scenario by default
    steps: int = 500

    def env(self, rows: int = 1, **options: Any) -> CarlaDriverVectorEnv:
        """Return the environment.

        Args:
            rows: Number of rows.
            options: Of the environment, in place of the course's own.
        """
        own = {"max_episode_steps": self.steps, "threads": 1}
        return CarlaDriverVectorEnv(
            rows, scenario=self.scenario, map=self.map, traffic=self.traffic, **own | options
        )


@dataclass(frozen=True)
class CourseOptions:
    """Where CarlaDriver-v0 is driven; a study's options inherit from it."""

    scenario: tuple[str, ...] = option(
        ("country_road",), "scenarios of CarlaDriver-v0, by name or as .yaml files"
    )
    map: str | None = option(
        None, "a map of the package or an .xodr file, instead of the scenario's"
    )
    traffic: int | None = option(None, "number of other vehicles, instead of the scenario's")


def courses(options: CourseOptions, steps: int = 500) -> list[Course]:
    """Return what the options name, with episodes of ``steps`` steps of 0.05 s.

    Raises:
        InputError: There is no scenario, or none of that name.
    """
    if not options.scenario:
        raise InputError("scenario=[...] needs at least one name")
    return [
        Course(as_scenario(name), options.map, options.traffic, steps) for name in options.scenario
    ]


def course_name(course: Course) -> str:
    """Return scenario and map in words."""
    own = Path(course.map).stem if course.map else course.scenario.map
    cars = course.scenario.traffic if course.traffic is None else course.traffic
    return f"{course.scenario.name} on {own}, {cars} others"
