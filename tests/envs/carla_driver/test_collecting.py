"""Collected shards: what is in them follows from the episode, and from nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.agents.classical.route_driver import route_driver
from steerlab.envs.carla_driver.collecting import Disturbance, Episode, collect
from steerlab.envs.carla_driver.scenarios import as_scenario
from steerlab.envs.shards.layout import COMMANDS, PARTS, STATE
from steerlab.envs.shards.read import Shard, open_shard
from steerlab.errors import InputError
from steerlab.openpilot.contracts import contract

pytest.importorskip("numba")
pytest.importorskip("zarr")

RULE = contract("openpilot-0.10.0").command


def collected(
    folder: Path, scenario: str = "highway_follow", seed: int = 5, **changes: object
) -> Shard:
    episode = Episode(as_scenario(scenario), seed, steps=40, **changes)  # type: ignore[arg-type]
    return open_shard(collect(episode, folder, PreviewDriver, route_driver, RULE))


@pytest.mark.slow
def test_an_episode_is_the_same_whoever_collected_before(tmp_path: Path) -> None:
    first = collected(tmp_path / "a")
    collected(tmp_path / "b", "country_road", 6)
    again = collected(tmp_path / "b")
    assert again.path.name == "highway_follow_motorway_5.zarr"
    for name in PARTS:
        np.testing.assert_array_equal(first.read(name), again.read(name), err_msg=name)
    told, more = dict(first.attributes), dict(again.attributes)
    assert told.pop("files").keys() == more.pop("files").keys()
    assert told == more
    with pytest.raises(InputError, match="exists"):
        collected(tmp_path / "b")


@pytest.mark.slow
def test_frames_at_a_drawn_phase_and_state_at_every_tick(tmp_path: Path) -> None:
    shards = [collected(tmp_path, seed=seed) for seed in (1, 2, 3)]
    phases = set()
    for shard in shards:
        ticks = shard.read("frame_tick")
        phase = shard.attributes["frame_phase"]
        phases.add(phase)
        np.testing.assert_array_equal(ticks, np.arange(phase, 40, 4))
        assert shard.ticks == 40
        state = shard.read("state")
        speed, x, y = (state[:, STATE.index(name)] for name in ("speed", "x", "y"))
        way = np.hypot(np.diff(x), np.diff(y))
        np.testing.assert_allclose(way, 0.025 * (speed[1:] + speed[:-1]), atol=0.01)
        assert shard.attributes["ended"] == "none"
        assert shard.read("img").std() > 10
        # 1.5 m ahead of the axle: the lens is where the labels' frame begins.
        assert np.abs(shard.read("lane_lines")[:, 1, 0, 0]).max() < 4.5
    assert len(phases) > 1


@pytest.mark.slow
def test_all_frames_at_20_hz(tmp_path: Path) -> None:
    shard = collected(tmp_path, "country_road", hz=20)
    np.testing.assert_array_equal(shard.read("frame_tick"), np.arange(40))
    with pytest.raises(InputError, match="hz=7"):
        collected(tmp_path, seed=9, hz=7)


@pytest.mark.slow
def test_the_teacher_steers_against_the_disturbance(tmp_path: Path) -> None:
    wild = collected(tmp_path / "wild", "country_road", disturbance=Disturbance(1.0, lateral=3.0))
    calm = collected(tmp_path / "calm", "country_road", disturbance=Disturbance(0.0))
    asked, taught = COMMANDS.index("curvature"), COMMANDS.index("teacher_curvature")

    def gap(shard: Shard) -> float:
        commands = shard.read("commands")
        return float(np.abs(commands[:, asked] - commands[:, taught]).max())

    assert gap(wild) > 3 * gap(calm)


def test_disturbance_is_of_the_stated_size() -> None:
    rng = np.random.default_rng(0)
    added = Disturbance(share=0.4, lateral=0.8).draw(40_000, rng)
    active = added[:, 0] != 0
    assert active.mean() == pytest.approx(0.4, abs=0.06)
    assert added[active].std(axis=0) == pytest.approx([0.8, 0.8], rel=0.1)
    assert (Disturbance(share=0.0).draw(100, rng) == 0).all()
    hasty = Disturbance(hasty=0.3).in_haste(100_000, rng)
    assert hasty.mean() == pytest.approx(0.3, abs=0.05)
    assert np.diff(hasty.astype(int)).clip(0).sum() == pytest.approx(0.3 * 5000 / 10, rel=0.3)
    assert not Disturbance(share=0.0).in_haste(100, rng).any()


@pytest.mark.slow
def test_bends_are_met_too_fast_by_a_driver_in_a_hurry(tmp_path: Path) -> None:
    scenario = replace(as_scenario("country_road"), traffic=0)
    taught = COMMANDS.index("teacher_acceleration")
    hardest = []
    for hasty in (0.0, 1.0):
        disturbance = Disturbance(lateral=0.0, longitudinal=0.0, hasty=hasty)
        episode = Episode(scenario, 1, steps=400, disturbance=disturbance, pictures=False)
        path = collect(episode, tmp_path / str(hasty), PreviewDriver, route_driver, RULE)
        hardest.append(open_shard(path).read("commands")[:, taught].min())
    assert hardest[0] > -1.0
    assert hardest[1] < -1.5
