"""Figures of a plant in closed loop, while it is trained."""

from collections.abc import Callable, Mapping

import torch

from steerlab.agents.classical.comma import controller_factory
from steerlab.envs.tinyphysics.rollout import evaluate
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.plants.shaped import ModelPlant, SurrogateModel
from steerlab.surrogates.segments.data import Segments


def pid_in_plant(
    routes: Segments, teacher: str | None = None
) -> Callable[[torch.nn.Module], Mapping[str, float]]:
    """Return a function that drives comma's PID controller in a plant, as it is trained so far.

    Args:
        routes: What is driven.
        teacher: Plant to compare with; None for no comparison.

    Returns:
        A function of the plant's network. Its result has ``pid_total_cost``, the mean total cost, and with
        a teacher ``pid_to_teacher``, the ratio to the cost in the teacher.
    """
    pid = controller_factory("pid")
    known: list[float] = []

    def metrics(model: torch.nn.Module) -> dict[str, float]:
        assert isinstance(model, SurrogateModel)
        total = float(evaluate(pid, routes, ModelPlant(model)).costs.total_cost.mean())
        figures = {"pid_total_cost": total}
        if teacher is not None:
            if not known:
                plant = load_plant(teacher, "fast")
                known.append(float(evaluate(pid, routes, plant).costs.total_cost.mean()))
            figures["pid_to_teacher"] = total / known[0]
        return figures

    return metrics
