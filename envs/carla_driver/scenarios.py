"""Scenarios as data: where episodes are driven, how they begin, who else is there, which weather."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from steerlab.errors import InputError, unknown_name
from steerlab.readers.text import read_yaml

Range = tuple[float, float]

#: What is drawn of weather and light: names, units and limits of CARLA's WeatherParameters. They act
#: on pictures only.
WEATHER: dict[str, Range] = {
    "cloudiness": (0.0, 100.0),  # percent
    "precipitation": (0.0, 100.0),  # percent
    "precipitation_deposits": (0.0, 100.0),  # percent: puddles
    "wetness": (0.0, 100.0),  # percent
    "fog_density": (0.0, 100.0),  # percent
    "sun_altitude_angle": (-90.0, 90.0),  # degrees above the horizon
    "sun_azimuth_angle": (0.0, 360.0),  # degrees
}
_ANY_WEATHER: dict[str, Range] = {
    "cloudiness": (0.0, 100.0),
    "precipitation": (0.0, 60.0),
    "precipitation_deposits": (0.0, 60.0),
    "wetness": (0.0, 80.0),
    "fog_density": (0.0, 30.0),
    "sun_altitude_angle": (5.0, 80.0),
    "sun_azimuth_angle": (0.0, 360.0),
}
#: How episodes begin: anywhere, before a junction, or on a lane that has to merge into another one.
SPAWNS = ("anywhere", "junction", "merge")


@dataclass(frozen=True)
class Scenario:
    """A kind of episode.

    Raises:
        InputError: A value is out of range.
    """

    name: str
    map: str  # shipped map, or path of an .xodr file, of the embedded backend
    town: str = "Town03"  # map of a CARLA server
    steps: int = 600  # of 0.05 s, length of an episode
    traffic: int = 10  # other vehicles
    speed: Range = (8.0, 14.0)  # m/s, set speed; the speed limits hold besides
    spawn: str = "anywhere"  # see SPAWNS
    approach: Range = (30.0, 90.0)  # m from the start to the junction or the merging lane
    turns: tuple[float, float, float] = (1.0, 1.0, 1.0)  # weights of straight on, left, right
    lane_changes: float = 0.0  # share of chances to change lanes that are taken
    lead: Range | None = None  # m to a vehicle that is put ahead in the own lane
    limits: Range = (0.0, 100.0)  # m/s, speed limits of the lanes where episodes begin
    weather: Mapping[str, Range] = field(default_factory=lambda: dict(_ANY_WEATHER))

    def __post_init__(self) -> None:
        for name in ("speed", "approach", "limits", "turns", "lead"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, self._numbers(name, value))
        self._need(10 <= self.steps <= 4000, "steps must be in [10, 4000]")
        self._need(0 <= self.traffic <= 100, "traffic must be in [0, 100]")
        self._need(0 <= self.lane_changes <= 1, "lane_changes must be in [0, 1]")
        self._need(self.speed[0] >= 3.0, "speed must be at least 3 m/s")
        self._need(self.lead is None or self.lead[0] >= 8.0, "lead must be at least 8 m")
        self._need(min(self.turns) >= 0 < sum(self.turns), "turns must be weights, one positive")
        if self.spawn not in SPAWNS:
            raise unknown_name(f"spawn of scenario {self.name!r}", str(self.spawn), SPAWNS)
        weather = {**_ANY_WEATHER}
        for name, bounds in dict(self.weather).items():
            if name not in WEATHER:
                raise unknown_name(f"weather of scenario {self.name!r}", str(name), WEATHER)
            low, high = self._numbers(name, bounds)
            self._need(
                WEATHER[name][0] <= low and high <= WEATHER[name][1],
                f"weather {name} must be within {list(WEATHER[name])}",
            )
            weather[name] = (low, high)
        object.__setattr__(self, "weather", weather)

    def _numbers(self, name: str, value: Any) -> Any:
        count = 3 if name == "turns" else 2
        try:
            numbers = tuple(float(v) for v in value)
        except (TypeError, ValueError):
            numbers = ()
        rising = name == "turns" or list(numbers) == sorted(numbers)
        self._need(len(numbers) == count and rising, f"{name} must be {count} numbers, rising")
        return numbers

    def _need(self, holds: Any, what: str) -> None:
        if not holds:
            raise InputError(f"scenario {self.name!r}: {what}")


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "urban_intersection", "urban_grid", "Town03", 600, 10, (8.0, 14.0), "junction",
            lane_changes=0.2,
        ),
        Scenario(
            "suburban_four_way_stop", "four_way_stop", "Town05", 600, 8, (6.0, 11.0), "junction",
            approach=(25.0, 70.0),
        ),
        Scenario(
            "highway_follow", "motorway", "Town04", 600, 10, (22.0, 34.0), "anywhere",
            lane_changes=0.3, lead=(25.0, 70.0), limits=(20.0, 100.0),
        ),
        Scenario("country_road", "country_road", "Town07", 600, 6, (14.0, 23.0), "anywhere"),
        Scenario(
            "highway_merge", "motorway", "Town06", 600, 10, (20.0, 30.0), "merge",
            approach=(80.0, 220.0),
        ),
    )
}  # fmt: skip


def register_scenario(scenario: Scenario) -> Scenario:
    """Make a scenario of your own known by its name.

    Raises:
        InputError: Another scenario has the name.
    """
    if SCENARIOS.get(scenario.name, scenario) != scenario:
        raise InputError(f"the scenario {scenario.name!r} exists already: choose another name")
    SCENARIOS[scenario.name] = scenario
    return scenario


def as_scenario(scenario: "str | Path | Scenario | Mapping[str, Any]") -> Scenario:
    """Return a scenario by its name, from a YAML file, from a mapping, or as it is.

    Raises:
        InputError: The name is unknown, or the file or a value in it is wrong.
    """
    if isinstance(scenario, Scenario):
        return scenario
    if isinstance(scenario, Mapping):
        return _from_mapping(scenario, "the mapping")
    if Path(scenario).suffix in (".yaml", ".yml"):
        path = Path(scenario)
        return _from_mapping({"name": path.stem, **read_yaml(path)}, str(path))
    if str(scenario) not in SCENARIOS:
        known = [*SCENARIOS, "any path that ends in .yaml"]
        raise unknown_name("scenario", str(scenario), known)
    return SCENARIOS[str(scenario)]


def _from_mapping(content: Mapping[str, Any], source: str) -> Scenario:
    """Return the scenario ``content``; ``like`` names one whose other values it takes over."""
    values = dict(content)
    like = values.pop("like", None)
    known = {f.name for f in fields(Scenario)}
    for name in values:
        if name not in known:
            raise unknown_name(f"entry of scenario {source}", str(name), [*known, "like"])
    base = asdict(as_scenario(like)) if like is not None else {}
    merged = {**base, **values}
    for name in ("name", "map"):
        if not isinstance(merged.get(name), str):
            raise InputError(f"scenario {source} needs {name!r}, a text")
    for name in ("steps", "traffic"):
        if name in merged and type(merged[name]) is not int:
            raise InputError(f"scenario {source}: {name} must be a whole number")
    return Scenario(**merged)
