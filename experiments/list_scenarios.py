"""List the scenarios of CarlaDriver-v0: their maps, routes, traffic and set speeds.

Example:
  steerlab list-scenarios
  steerlab list-scenarios "files=[my_scenario.yaml]"
"""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from steerlab.envs.carla_driver.scenarios import SCENARIOS, Scenario, as_scenario
from steerlab.options import option
from steerlab.study import study


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    files: tuple[str, ...] = option((), "scenarios of your own, .yaml files, to check and to list")


def run(config: Config, output: Path | None) -> list[Scenario]:
    """Print and return the scenarios."""
    scenarios = [*SCENARIOS.values(), *(as_scenario(file) for file in config.files)]
    names = ("scenario", "map", "town", "begins", "others", "m/s", "s")
    table = Table(*(Column(n, no_wrap=True) for n in names), box=None, header_style="bold")
    for s in scenarios:
        table.add_row(
            s.name, s.map, s.town, s.spawn, str(s.traffic), f"{s.speed[0]:g} to {s.speed[1]:g}",
            f"{s.steps / 20:g}",
        )  # fmt: skip
    table.caption = (
        "map: of the embedded backend; town: of a CARLA server; m/s: set speed; s: length"
    )
    Console().print(table)
    return scenarios


main = study(Config, run, folder=False)

if __name__ == "__main__":
    main()
