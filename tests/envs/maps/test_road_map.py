from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerlab.envs.maps import RoadMap, load, load_map, save, validate
from steerlab.envs.maps.road_map import DRIVABLE, LANE_KINDS, PAVED
from steerlab.errors import InputError


@pytest.fixture(scope="module")
def town() -> RoadMap:
    return load_map("four_way_stop")


def test_saved_map_is_the_same(town: RoadMap, tmp_path: Path) -> None:
    save(town, tmp_path / "town.npz")
    again = load(tmp_path / "town.npz")
    assert (again.name, again.hash) == (town.name, town.hash)
    for name, value in town.arrays().items():
        np.testing.assert_array_equal(value, getattr(again, name))
    assert len(town.arrays()) == 37


def test_arrays_cannot_be_changed(town: RoadMap) -> None:
    with pytest.raises(ValueError, match="read-only"):
        town.points[0] = 0


def test_hash_tells_maps_apart(town: RoadMap) -> None:
    moved = town.points.copy()
    moved[0, 2] += 1e-9
    assert replace(town, points=moved).hash != town.hash


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("width", lambda a: -a, "a width is negative"),
        ("points", lambda a: np.where(a > 50, np.nan, a), "points has a number that is not finite"),
        ("points", lambda a: a[:-1], r"s has shape .*must be"),
        ("successors", lambda a: a + 10_000, "successors leaves"),
        ("lane_left", lambda a: a.astype(np.int64), "lane_left is int64"),
        ("lane_kind", lambda a: 0 * a, "no lane that cars can drive on"),
        ("lane_start", lambda a: a[::-1], "lane_start does not rise"),
        ("s", lambda a: a**1.01, "s is not evenly spaced"),
        ("lane_limit", lambda a: 0 * a, "a speed limit is not positive"),
    ],
)
def test_validate_names_what_is_wrong(
    town: RoadMap, name: str, change: object, message: str
) -> None:
    assert callable(change)
    changed: dict[str, Any] = {name: np.ascontiguousarray(change(getattr(town, name)))}
    bad = replace(town, **changed)
    with pytest.raises(InputError, match=message):
        validate(bad)


def test_load_refuses_what_is_no_map(town: RoadMap, tmp_path: Path) -> None:
    path = tmp_path / "town.npz"
    save(town, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot read map"):
        load(path)
    np.savez(path, about=np.array(["1", "x", "0", "y"], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot read map"):
        load(path)
    np.savez(path, about=np.array(["99", "x", "0", "y"]))
    with pytest.raises(InputError, match="map schema 99"):
        load(path)
    arrays: dict[str, Any] = town.arrays() | {"about": np.array(["1", "x", "0", "y"])}
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="does not match its hash"):
        load(path)
    with pytest.raises(InputError, match="cannot read map"):
        load(tmp_path / "absent.npz")


def test_unknown_map_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="did you mean 'motorway'"):
        load_map("motorwai")


def test_tables() -> None:
    assert LANE_KINDS[DRIVABLE[0]] == "driving"
    assert set(DRIVABLE) < set(PAVED)
    assert LANE_KINDS.index("sidewalk") not in PAVED
