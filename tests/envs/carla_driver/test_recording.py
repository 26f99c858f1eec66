"""Records of drives: which lane a car is on while it changes lanes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.agents.classical.route_driver import route_driver
from steerlab.envs.carla_driver.collecting import Disturbance, Episode, collect
from steerlab.envs.carla_driver.scenarios import as_scenario
from steerlab.envs.shards.layout import STATE
from steerlab.envs.shards.read import open_shard
from steerlab.openpilot.contracts import DESIRES, contract

pytest.importorskip("numba")
pytest.importorskip("zarr")

RULE = contract("openpilot-0.10.0").command


@pytest.mark.slow
def test_the_car_is_between_the_lines_of_its_lane_during_a_lane_change(tmp_path: Path) -> None:
    scenario = replace(as_scenario("highway_follow"), lane_changes=1.0, traffic=0)
    calm = Disturbance(share=0.0)
    episode = Episode(scenario, 4, steps=400, disturbance=calm, pictures=False)
    shard = open_shard(collect(episode, tmp_path, PreviewDriver, route_driver, RULE))
    ticks, state = shard.read("frame_tick"), shard.read("state")
    wanted = shard.read("desire")[ticks].argmax(1)
    assert np.isin(
        wanted, [DESIRES.index("laneChangeLeft"), DESIRES.index("laneChangeRight")]
    ).any()
    assert np.abs(state[:, STATE.index("offset")]).max() < 0.3  # it follows the path of the change
    left, right = shard.read("lane_lines")[:, 1:3, 0, 0].T
    assert (left < 0.2).all()
    assert (right > -0.2).all()
    # Where the car crosses a line, the own lane becomes the next one.
    jumps = np.flatnonzero(np.abs(np.diff(left)) > 2.0)
    assert len(jumps) >= 1
    for jump in jumps:
        assert min(abs(left[jump]), abs(right[jump])) < 0.5
