"""What a trained planner accepts: cases that lie elsewhere and fewer steps, nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from steerlab.agents.classical.tracking import optimal_controls
from steerlab.agents.trc import TinyRecursiveControl, TrcConfig
from steerlab.agents.trc.acceptance import check_accepts, replanned, with_steps
from steerlab.envs.tracking.double_integrator import DoubleIntegrator
from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.envs.tracking.van_der_pol import VanDerPol
from steerlab.errors import InputError

TRAINED = DoubleIntegrator()


@pytest.mark.parametrize(
    "asked",
    [
        TRAINED,
        DoubleIntegrator(spread=8.0, target_spread=0.0, tolerance=0.5),
        with_steps(TRAINED, 5),
        DoubleIntegrator(steps=3, horizon=1.0),
    ],
)
def test_accepted(asked: TrackingProblem) -> None:
    check_accepts(TRAINED, asked, "it", fewer=True)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (DoubleIntegrator(limit=8.0), r"it was trained for limit=4\.0 and not 8\.0"),
        (
            DoubleIntegrator(input_weight=0.2, terminal_factor=0.0),
            r"input_weight=0\.1 and not 0\.2, terminal_factor=100\.0 and not 0\.0",
        ),
        (DoubleIntegrator(integrator="semi_implicit_euler"), "integrator=exact"),
        (with_steps(TRAINED, 16), "steps=15 and not 16"),
        (DoubleIntegrator(steps=5, horizon=5.0), "steps=15 and not 5"),
        (VanDerPol(), "plans for DoubleIntegrator, not for VanDerPol"),
    ],
)
def test_refused_by_name(asked: TrackingProblem, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_accepts(TRAINED, asked, "it", fewer=True)


def test_fewer_steps_are_no_training_data() -> None:
    with pytest.raises(InputError, match="steps=15 and not 5"):
        check_accepts(TRAINED, with_steps(TRAINED, 5), "it")


def test_a_planner_without_targets_gets_none() -> None:
    trained = VanDerPol()
    check_accepts(trained, replace(trained, spread=3.0), "it")
    with pytest.raises(InputError, match=r"target_spread=0\.0 and not 1\.0"):
        check_accepts(trained, replace(trained, target_spread=1.0), "it")


class Exact(TinyRecursiveControl):
    """Plans the optimum, for any number of steps up to its own."""

    def plan(self, initial, targets, remaining=None, *, all_iterates=False):  # type: ignore[no-untyped-def]
        return optimal_controls(with_steps(self.problem, int(remaining)), initial, targets)


def test_replanning_beyond_the_own_horizon() -> None:
    """Six steps with a planner of four: step by step it is the optimum over the next four."""
    torch.manual_seed(0)
    problem = DoubleIntegrator(steps=4, horizon=2.0)
    longer = with_steps(problem, 6)
    initial, targets = problem.sample(np.random.default_rng(1), 3)
    found = replanned(Exact(problem, TrcConfig(4, 4, 1, 1, 1)), longer, initial, targets)
    state, expected = initial, []
    for left in (4, 4, 4, 3, 2, 1):
        short = DoubleIntegrator(steps=left, horizon=0.5 * left)
        expected.append(optimal_controls(short, state, targets)[:, 0])
        state = longer.step(state, expected[-1])
    np.testing.assert_allclose(found, np.stack(expected, axis=1), atol=1e-9)
    best = longer.cost(initial, targets, optimal_controls(longer, initial, targets))
    assert (longer.cost(initial, targets, found) >= best - 1e-9).all()
