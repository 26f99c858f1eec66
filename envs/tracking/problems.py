"""The tracking problems by the id of their task, and as plain values in files."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from steerlab.envs.tracking.changes import ProblemChanges, given_changes
from steerlab.envs.tracking.double_integrator import DoubleIntegrator
from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.envs.tracking.van_der_pol import VanDerPol
from steerlab.errors import InputError, unknown_name
from steerlab.options import option
from steerlab.readers.text import parse_json

PROBLEMS: dict[str, type[TrackingProblem]] = {
    "DoubleIntegrator-v0": DoubleIntegrator,
    "VanDerPol-v0": VanDerPol,
}


def make_problem(task: str, preset: str = "optimal", **changes: Any) -> TrackingProblem:
    """Return the problem of a task.

    Raises:
        InputError: The task, the preset or a parameter is unknown.
    """
    if task not in PROBLEMS:
        raise unknown_name("tracking task", task, PROBLEMS)
    return PROBLEMS[task].preset(preset, **changes)


def dump_problem(problem: TrackingProblem) -> str:
    """Return the problem as a line of JSON."""
    task = next(name for name, kind in PROBLEMS.items() if kind is type(problem))
    return json.dumps({"task": task, **asdict(problem)})


def parse_problem(text: str) -> TrackingProblem:
    """Return the problem that :func:`dump_problem` wrote.

    Raises:
        InputError: ``text`` describes no problem.
    """
    try:
        values = dict(parse_json(text, "a tracking problem"))
        return make_problem(values.pop("task"), **values)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{text!r} describes no tracking problem ({error})") from error


@dataclass(frozen=True)
class ProblemOptions(ProblemChanges):
    """Which problem is solved; the parameters that are null are those of the preset."""

    task: str = option("DoubleIntegrator-v0", "DoubleIntegrator-v0 or VanDerPol-v0")
    preset: str = option("optimal", "optimal, or published: no terminal cost (DoubleIntegrator-v0)")
    num_steps: int | None = option(None, "control steps of an episode")
    time_horizon: float | None = option(None, "length of an episode in seconds")


def chosen_problem(options: ProblemOptions) -> TrackingProblem:
    """Return the problem that ``options`` name.

    Raises:
        InputError: The task or preset is unknown, or a value is out of range.
    """
    given = {"steps": options.num_steps, "horizon": options.time_horizon}
    changes = {key: value for key, value in given.items() if value is not None}
    changes |= given_changes(options)
    return make_problem(options.task, options.preset, **changes)
