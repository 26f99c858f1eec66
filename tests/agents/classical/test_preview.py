"""The reference driver: no violation on any fresh road, whatever car it is given."""

from typing import Any

import numpy as np
import pytest

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.record import drive_once, offset_figures


@pytest.mark.parametrize(
    "count",
    [60, pytest.param(1000, marks=pytest.mark.slow)],
)
def test_no_violations(count: int) -> None:
    record = drive_once(KinematicDriverVectorEnv(count), PreviewDriver, seed=77)
    result, offset = record.end, offset_figures(record)
    assert offset.cte_p95_steady < 0.08
    assert offset.cte_p95_start > 0.4  # no driver can help the drawn offset
    assert (result["violation"] == 0).all()
    assert np.percentile(result["cte_p95"], 95) < 0.8
    assert np.median(result["cte_p95"]) < 0.35
    assert np.median(result["jerk_rms"]) < 1.5
    assert result["progress"].mean() > 90


def test_harsh_corner_of_the_randomisation() -> None:
    """The slowest actuator, the least grip and the heaviest car, all at once."""
    pins = {"lateral_delay": 0.5, "actuator_lag": 0.3, "smoothing": 0.2, "friction": 0.3}
    pins |= {"mass": 1.4, "brake_lag": 0.4, "lane_width": 2.7, "shoulder": 0.4}
    result = drive_once(KinematicDriverVectorEnv(60), PreviewDriver, seed=5, options=pins).end
    assert (result["violation"] == 0).all()


@pytest.mark.slow
def test_a_cautious_driver_slows_down_where_it_acts_late_and_sees_badly() -> None:
    """Only where both hold, only on a plan of its own, and not below 12 m/s."""
    prompt = {"lateral_delay": 0.1, "actuator_lag": 0.05, "smoothing": 0.0}
    late = {"lateral_delay": 0.5, "actuator_lag": 0.3, "smoothing": 0.2}
    clear, blurred = (
        {"geometry_noise": 0.1, "brightness": 1.0},
        {"geometry_noise": 1.5, "brightness": 0.4},
    )

    def way(
        pins: dict[str, float],
        lateral: float | None = 1.7,
        speeds: tuple[float, float] = (20.0, 35.0),
    ) -> float:
        env = KinematicDriverVectorEnv(30, ranges={"kinds": (1, 0, 0, 0), "speed_lane": speeds})
        result = drive_once(env, lambda e: PreviewDriver(e, lateral), seed=5, options=pins).end
        assert (result["violation"] == 0).all()
        return float(result["progress"].mean())

    usual = way(late | clear)
    assert way(prompt | blurred) == pytest.approx(way(prompt | clear))
    assert 0.75 * usual < way(late | blurred) < 0.9 * usual
    slow = (5.0, 12.0)
    assert way(late | blurred, speeds=slow) == pytest.approx(way(late | clear, speeds=slow))
    assert way(late | blurred, None) == pytest.approx(way(late | clear, None))


def test_first_episodes_count_once() -> None:
    """A driver that does nothing: every row reports its own first episode."""

    class Idle:
        def __init__(self, env: KinematicDriverVectorEnv) -> None:
            self.env = env

        def reset(self, observation: Any, info: dict[str, Any]) -> None:
            pass

        def __call__(self, observation: Any, info: dict[str, Any]) -> Any:
            return np.zeros((self.env.num_envs, 2), np.float32)

    result = drive_once(KinematicDriverVectorEnv(50), Idle, seed=0).end
    assert result["violation"].shape == (50,)
    assert (result["violation"] > 0).mean() > 0.9
    assert np.isfinite(result["cte_p95"]).all()
