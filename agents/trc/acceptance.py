"""What problems a trained planner accepts, and plans for more steps than it was trained for."""

from dataclasses import asdict, replace

import numpy as np

from steerlab.agents.trc.model import Planner
from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.errors import InputError
from steerlab.types import Floats

#: Parameters that no weight of a planner depends on: where the cases lie, and when one succeeds.
FREE = ("spread", "target_spread", "tolerance")


def with_steps(problem: TrackingProblem, steps: int) -> TrackingProblem:
    """Return the same problem with ``steps`` steps of the same length."""
    return replace(problem, steps=steps, horizon=steps * problem.dt)


def check_accepts(
    trained: TrackingProblem, asked: TrackingProblem, who: str, *, fewer: bool = False
) -> None:
    """Refuse a problem that a planner was not made for.

    A planner has the plant, the bound, the weights and the number and length of its steps in its
    weights. The cases may lie elsewhere (:data:`FREE`).

    Args:
        trained: What the planner was made for.
        asked: What it is to solve.
        who: What the message calls the planner.
        fewer: Whether fewer steps of the same length are accepted too.

    Raises:
        InputError: A parameter differs; the message names each of them.
    """
    if type(trained) is not type(asked):
        raise InputError(
            f"{who} plans for {type(trained).__name__}, not for {type(asked).__name__}: use cases of "
            "its task, or train a planner on these"
        )
    free = set(FREE)
    if not trained.target_spread and asked.target_spread:
        free.remove("target_spread")  # it does not get the target
    if fewer and asked.steps <= trained.steps and np.isclose(asked.dt, trained.dt, rtol=1e-6):
        free |= {"steps", "horizon"}
    mine, other = asdict(trained), asdict(asked)
    differing = [name for name in mine if name not in free and mine[name] != other[name]]
    if differing:
        told = ", ".join(f"{name}={mine[name]} and not {other[name]}" for name in differing)
        raise InputError(
            f"{who} was trained for {told}: use cases of the same, or make some with these values "
            f"(steerlab generate-lqr) and train on them; only {', '.join(FREE)}"
            + " and fewer steps of the same length" * fewer
            + " may differ"
        )


def replanned(model: Planner, problem: TrackingProblem, initial: Floats, targets: Floats) -> Floats:
    """Return controls (B, T, 1) for a problem of any number of steps, planning anew at each.

    While more steps are left than the planner has, it plans with all of its own (a receding
    horizon): it then aims to arrive earlier than it must.

    Args:
        model: The planner.
        problem: Its problem with T steps of the same length; see :func:`with_steps`.
        initial: (B, 2).
        targets: (B, 2).
    """
    states, controls = initial, []
    for k in range(problem.steps):
        left = min(problem.steps - k, model.problem.steps)
        controls.append(model.plan(states, targets, left)[:, 0])
        states = problem.step(states, controls[-1])
    return np.stack(controls, axis=1)
