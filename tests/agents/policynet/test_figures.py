"""The figures of a table, from episodes that are worked out by hand."""

import numpy as np
import pytest

from steerlab.agents.policynet.evaluate import figures
from steerlab.envs.kinematic_driver.record import Record


def test_figures_by_hand() -> None:
    """Ramps over 100 steps: the first 40 are the start, 60 the steady state."""
    rows, steps = 20, 100
    ramp = np.linspace(0.0, 0.99, steps, dtype=np.float32)[:, None].repeat(rows, 1)
    returns = np.arange(rows, dtype=float)  # the worst twentieth is the one episode that returns 0
    end = {
        "violation": np.zeros(rows, int), "base_return": returns, "progress": np.full(rows, 90.0),
        "s": np.full(rows, 102.0), "steps": np.full(rows, steps),
    }  # fmt: skip
    found = figures(Record(ramp, 2 * ramp, 0.1 * ramp, np.full_like(ramp, 2.0), end))
    assert found.heading_p95 == pytest.approx(0.095, abs=0.001)
    assert found.cte_p50 == pytest.approx(0.5, abs=0.011)
    assert found.cte_p95 == pytest.approx(0.95, abs=0.011)
    assert found.cte_p95_start == pytest.approx(0.38, abs=0.011)  # of the first 40 steps: 2 s
    assert found.cte_p50_steady == pytest.approx(0.70, abs=0.011)
    assert found.cte_p95_steady == pytest.approx(0.97, abs=0.011)
    assert found.front_p95_steady == pytest.approx(1.94, abs=0.021)
    assert found.jerk_rms == pytest.approx(2.0)
    assert (found.return_mean, found.return_cvar) == (9.5, 0.0)
    assert found.km == pytest.approx(2.0)


def test_what_a_crash_cut_off_counts_as_infinite() -> None:
    ramp = np.full((100, 10), 0.1, np.float32)
    ramp[50:, 0] = np.nan
    end = {
        "violation": np.array([1] + [0] * 9), "base_return": np.zeros(10), "progress": np.zeros(10),
        "s": np.zeros(10), "steps": np.full(10, 100),
    }  # fmt: skip
    found = figures(Record(ramp, ramp, ramp, ramp, end))
    assert found.violations == 1
    assert found.cte_p50 == pytest.approx(0.1)
    assert found.cte_p95 == np.inf  # 5 % of all steps are lost
