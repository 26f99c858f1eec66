"""Tiny recursive control: a small network that plans, looks at its plan, and corrects it.

>>> from steerlab.agents.trc import TinyRecursiveControl, load_dataset, train
>>> train_set, valid_set = load_dataset("lqr_dataset.npz")  # doctest: +SKIP
>>> model = TinyRecursiveControl.of_size("medium", train_set.problem)  # doctest: +SKIP
>>> train(model, train_set, valid_set, output="runs/trc", epochs=100)  # doctest: +SKIP
"""

from steerlab.agents.trc.data import PlanData, load_dataset
from steerlab.agents.trc.model import SIZES, MlpPlanner, TinyRecursiveControl, TrcConfig
from steerlab.agents.trc.train import TrainConfig, load_planner, train

__all__ = [
    "SIZES",
    "MlpPlanner",
    "PlanData",
    "TinyRecursiveControl",
    "TrainConfig",
    "TrcConfig",
    "load_dataset",
    "load_planner",
    "train",
]
