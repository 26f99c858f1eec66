from pathlib import Path

import pytest

from steerlab.envs.carla_driver.scenarios import (
    SCENARIOS,
    WEATHER,
    Scenario,
    as_scenario,
    register_scenario,
)
from steerlab.errors import InputError


def test_the_five_scenarios() -> None:
    assert list(SCENARIOS) == [
        "urban_intersection", "suburban_four_way_stop", "highway_follow", "country_road",
        "highway_merge",
    ]  # fmt: skip
    for name, scenario in SCENARIOS.items():
        assert as_scenario(name) is scenario
        assert set(scenario.weather) == set(WEATHER)


def test_yaml_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "rainy.yaml"
    path.write_text("like: urban_intersection\ntraffic: 3\nweather:\n  precipitation: [50, 90]\n")
    scenario = as_scenario(path)
    assert (scenario.name, scenario.traffic, scenario.map) == ("rainy", 3, "urban_grid")
    assert scenario.weather["precipitation"] == (50.0, 90.0)
    assert scenario.weather["fog_density"] == (0.0, 30.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("traffic: many\nmap: urban_grid\n", "traffic must be a whole number"),
        ("map: urban_grid\nsped: [1, 2]\n", "unknown entry .*did you mean 'speed'"),
        ("steps: 100\n", "needs 'map'"),
        ("map: urban_grid\nspeed: [9, 4]\n", "speed must be 2 numbers, rising"),
        ("map: urban_grid\nspeed: fast\n", "speed must be 2 numbers"),
        ("map: urban_grid\nspawn: nowhere\n", "unknown spawn"),
        ("map: urban_grid\nweather: {snow: [0, 1]}\n", "unknown weather"),
        ("map: urban_grid\nweather: {wetness: [0, 200]}\n", "weather wetness must be within"),
        ("map: urban_grid\nsteps: 3\n", "steps must be in"),
        ("- a\n- b\n", "holds no options by name"),
        ("a: [\n", "not readable as YAML"),
        ("a: &a [1, 2]\nb: *a\n", "aliases are not accepted"),
        ("x" * 300_000, "more than 262,144 bytes"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        as_scenario(path)


def test_registered_scenarios() -> None:
    mine = Scenario("mine", "urban_grid", traffic=1)
    try:
        assert as_scenario(register_scenario(mine).name) is mine
        register_scenario(mine)
        with pytest.raises(InputError, match="exists already"):
            register_scenario(Scenario("mine", "motorway"))
    finally:
        SCENARIOS.pop("mine", None)
    with pytest.raises(InputError, match="unknown scenario 'mine'"):
        as_scenario("mine")
    with pytest.raises(InputError, match=r"there is no file 'absent\.yaml'"):
        as_scenario("absent.yaml")
