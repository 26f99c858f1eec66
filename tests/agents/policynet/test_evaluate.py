"""Held-out episodes are frozen, and their figures are those of what was driven."""

import numpy as np
import pytest

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.agents.policynet.evaluate import drive, figures, held_out
from steerlab.envs.kinematic_driver.randomization import Ranges
from steerlab.envs.kinematic_driver.record import join
from steerlab.errors import InputError
from steerlab.seeds import REFERENCE_IO


def test_held_out_episodes_are_frozen() -> None:
    found = held_out()
    assert (found.first_seed, found.episodes, found.max_episode_steps) == (2 * 10**9, 10_000, 500)
    assert found.ranges == Ranges()  # the defaults must not drift away from what was frozen
    assert found.seeds(3) == range(2 * 10**9, 2 * 10**9 + 3)
    assert found.first_seed > REFERENCE_IO + 10**7
    with pytest.raises(InputError, match=r"1\.\.10000"):
        found.seeds(10_001)


def test_blocks_are_the_same_episodes() -> None:
    seeds = held_out().seeds(6)
    whole = drive(PreviewDriver, seeds, max_episode_steps=60)
    parts = [drive(PreviewDriver, seeds[a : a + 3], max_episode_steps=60) for a in (0, 3)]
    both = join(parts)
    np.testing.assert_allclose(both.offset, whole.offset, atol=1e-6)
    assert figures(both).as_dict() == pytest.approx(figures(whole).as_dict(), abs=1e-5)


def test_figures_of_a_short_drive() -> None:
    record = drive(PreviewDriver, held_out().seeds(5), max_episode_steps=50)
    found = figures(record)
    assert found.episodes == 5
    assert found.violations == 0
    driven = record.offset[~np.isnan(record.offset)]
    assert found.cte_p95 == pytest.approx(np.percentile(driven, 95), rel=0.02)
    assert found.cte_max == pytest.approx(record.end["cte_max"].max())
    assert len(driven) == record.end["steps"].sum()
    assert found.km == pytest.approx((record.end["s"] - 2.0).sum() / 1000)
    assert found.jerk_rms**2 == pytest.approx(
        (record.end["jerk_rms"] ** 2 * record.end["steps"]).sum() / record.end["steps"].sum(),
        rel=1e-4,
    )


def test_targets() -> None:
    from dataclasses import replace

    found = figures(drive(PreviewDriver, held_out().seeds(3), max_episode_steps=30))
    good = replace(found, cte_p95=0.4, heading_p95=0.05, jerk_rms=1.0, violations=0, cuts=0)
    assert good.meets_targets()
    assert not replace(good, violations=1).meets_targets()
    assert not replace(good, cte_p95=0.5).meets("cte_p95")
