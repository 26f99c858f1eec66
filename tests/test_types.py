"""Shapes in signatures are checked where the tests call them."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from steerlab.agents.classical.tracking import random_controls
from steerlab.agents.trc.evaluate import gaps, optimal_cases
from steerlab.envs.tracking.problem import final_error
from steerlab.envs.tracking.problems import make_problem


def test_shapes_that_do_not_fit_are_noticed() -> None:
    problem = make_problem("DoubleIntegrator-v0")
    states, targets = np.zeros((3, 2)), np.zeros((3, 2))
    assert random_controls(problem, states, targets).shape == (3, 15, 1)
    with pytest.raises(TypeCheckError):
        random_controls(problem, states, targets[:2])
    with pytest.raises(TypeCheckError):
        random_controls(problem, np.zeros((3, 3)), targets)
    with pytest.raises(TypeCheckError):
        random_controls(problem, states.astype(np.float32), targets)
    assert final_error(np.zeros((3, 16, 2)), targets).shape == (3,)
    with pytest.raises(TypeCheckError):
        final_error(np.zeros((3, 16, 1)), targets)
    with pytest.raises(TypeCheckError):
        gaps(optimal_cases(problem, 2, 0), np.zeros((2, 15)))
