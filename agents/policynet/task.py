"""The tasks that PolicyNet learns and is driven on: KinematicDriver-v0, and CarlaDriver-v0 with the same car."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from steerlab.agents.policynet.evaluate import HARD
from steerlab.agents.policynet.model import KINEMATIC_DRIVER
from steerlab.envs.carla_driver.course import Course, CourseOptions
from steerlab.envs.carla_driver.scenarios import as_scenario
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.randomization import Ranges
from steerlab.errors import InputError, unknown_name

CARLA_DRIVER = "CarlaDriver-v0"


class Task(Protocol):
    """What a training has to know of its task."""

    @property
    def name(self) -> str:
        """Its name in the registry."""

    @property
    def hard(self) -> Ranges:
        """Conditions that are rare and in which policies fail."""

    @property
    def cautious(self) -> bool:
        """Whether the preview teacher plans its speed itself, without the grip that nobody sees."""

    @property
    def aggregates(self) -> bool:
        """Whether an iteration learns from all drives so far: where driving costs more than learning."""

    def env(self, rows: int, number: int = 0, **options: Any) -> KinematicDriverVectorEnv:
        """Return the environment of drive ``number``; options are those of the environment."""


@dataclass(frozen=True)
class KinematicTask:
    """KinematicDriver-v0."""

    name: str = KINEMATIC_DRIVER
    hard: Ranges = HARD
    cautious: bool = True
    aggregates: bool = False

    def env(self, rows: int, number: int = 0, **options: Any) -> KinematicDriverVectorEnv:
        """Return the environment of any drive."""
        return KinematicDriverVectorEnv(rows, **options)


KINEMATIC = KinematicTask()
#: A country road, which bends, without traffic.
_USUAL = (Course(as_scenario("country_road"), traffic=0),)


@dataclass(frozen=True)
class CarlaTask:
    """CarlaDriver-v0 in one or several scenarios, in turns.

    The teacher follows the road's own speed plan: only that stops at signals and behind other vehicles.
    """

    courses: Sequence[Course] = _USUAL
    name: str = CARLA_DRIVER
    #: Of the car only: what blurs KinematicDriver's lines is not in pictures.
    hard: Ranges = Ranges(
        lateral_delay=HARD.lateral_delay, actuator_lag=HARD.actuator_lag, smoothing=HARD.smoothing
    )
    cautious: bool = False
    aggregates: bool = True

    def env(self, rows: int, number: int = 0, **options: Any) -> KinematicDriverVectorEnv:
        """Return the environment of drive ``number``."""
        # Each round begins with another course, so that none of two meets hard drives only.
        turn = number + number // len(self.courses)
        return self.courses[turn % len(self.courses)].env(rows, **options)


def check_task(name: str, options: CourseOptions, vision: str | None) -> None:
    """Refuse a task that does not exist, and what does not belong to it.

    Args:
        name: Of the task.
        options: Scenarios, which are CarlaDriver's.
        vision: The vision network that is given, '' for none; None where nobody needs one.

    Raises:
        InputError: There is no such task, or an option does not fit it.
    """
    if name not in (KINEMATIC_DRIVER, CARLA_DRIVER):
        raise unknown_name("env", name, (KINEMATIC_DRIVER, CARLA_DRIVER))
    if name == CARLA_DRIVER and vision == "":
        raise InputError(
            f"env={name} shows pictures: give vision=, a driving_vision.onnx of steerlab export-vision"
        )
    for given in fields(CourseOptions):
        value = getattr(options, given.name)
        value = tuple(value) if isinstance(value, list) else value  # as settings are read
        if name != CARLA_DRIVER and value != given.default:
            raise InputError(
                f"{given.name}= is for env={CARLA_DRIVER}; leave it out with env={name}"
            )


def task_named(name: str) -> Task:
    """Return a task with its defaults."""
    return CarlaTask() if name == CARLA_DRIVER else KINEMATIC
