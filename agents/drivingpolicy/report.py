"""Drives of courses, in processes, and their table."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from steerlab.agents.drivingpolicy.closed_loop import (
    DriveFigures,
    MakeDriver,
    drive_episode,
    drive_figures,
    film,
)
from steerlab.envs.carla_driver.course import Course, course_name
from steerlab.envs.kinematic_driver.record import Record, join
from steerlab.files import write_json
from steerlab.film import write_film
from steerlab.processes import in_order

_ROWS = (
    ("km", "km driven", ".2f"),
    ("violations", "violations", "d"),
    ("metres_per_violation", "metres per violation", ".0f"),
    ("cte_p95_start", "CTE P95, start (m)", ".2f"),
    ("cte_p50_steady", "CTE P50, steady (m)", ".2f"),
    ("cte_p95_steady", "CTE P95, steady (m)", ".2f"),
    ("lane_kept", "steps within 0.5 m", ".0%"),
    ("jerk_rms", "jerk RMS (m/s^3)", ".2f"),
    ("progress", "way at the set speed (%)", ".1f"),
)


FIGURES = "driving.json"


def drive_courses(
    drivers: Mapping[str, MakeDriver],
    courses: Sequence[Course],
    episodes: int,
    output: Path,
    processes: int = 1,
    films: int = 0,
    first: int = 0,
) -> dict[str, dict[str, DriveFigures]]:
    """Let all drivers drive held-out episodes of all courses; print and write the figures, and return them.

    Args:
        drivers: By name.
        courses: What is driven; with several of them the last table, ``all``, is of all episodes.
        episodes: Held-out episodes of each course.
        output: Folder of ``driving.json`` and of the films.
        processes: Processes that drive.
        films: Episodes of each course that are filmed, with the first driver.
        first: Number of the first held-out episode.
    """
    found: dict[str, dict[str, DriveFigures]] = {}
    records: dict[str, list[Record]] = {name: [] for name in drivers}
    for course in courses:
        title = course_name(course)
        for name, make in drivers.items():
            records[name].append(
                drive_course(make, course, episodes, f"{name}: {title}", processes, first)
            )
        found[title] = {name: drive_figures(r[-1]) for name, r in records.items()}
        print_figures(found[title], f"{episodes} held-out episodes: {title}")
        _write(found, output)
        for number in range(first, first + films):
            stem = output / f"{course.scenario.name}_{number}"
            shown = next(iter(drivers.values()))
            print(f"film: {write_film(film(shown, course, number), stem)}")
    if len(courses) > 1:
        found["all"] = {name: drive_figures(pooled(r)) for name, r in records.items()}
        print_figures(found["all"], f"{episodes * len(courses)} held-out episodes")
        _write(found, output)
    return found


def _write(found: Mapping[str, Mapping[str, DriveFigures]], output: Path) -> None:
    told = {
        course: {name: figures.as_dict() for name, figures in by_driver.items()}
        for course, by_driver in found.items()
    }
    write_json(output / FIGURES, told)


def drive_course(
    make: MakeDriver, course: Course, episodes: int, name: str, processes: int = 1, first: int = 0
) -> Record:
    """Drive the held-out episodes ``first``, ``first + 1``, .. of a course, each by itself."""
    work = partial(drive_episode, make, course)
    numbers = range(first, first + episodes)
    driven = in_order(work, numbers, processes)
    records = list(tqdm(driven, total=episodes, unit="episode", desc=name))
    return join(records)


def print_figures(columns: Mapping[str, DriveFigures], title: str) -> None:
    """Print one column a driver."""
    kinds: list[str] = list(dict.fromkeys(k for f in columns.values() for k in f.by_kind))
    table = Table(
        title=title, header_style="bold",
        caption="metres of all episodes over all violations, 95 % interval by bootstrap over episodes; "
        "start: the first 2 s, from an offset that is drawn; steady: what follows; steps that a violation cut off count as infinitely far off",
    )  # fmt: skip
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for key, words, form in _ROWS:
        cells = [format(getattr(f, key), form) for f in columns.values()]
        table.add_row(words, *(c.replace("nan", "-") for c in cells))
        if key == "violations":
            for kind in kinds:
                table.add_row(f"  {kind}", *(str(f.by_kind.get(kind, 0)) for f in columns.values()))
        if key == "metres_per_violation":
            ends = [f"{f.interval[0]:.0f} to {f.interval[1]:.0f}" for f in columns.values()]
            table.add_row("  95 % interval", *ends)
    Console().print(table)


def pooled(records: Sequence[Record]) -> Record:
    """Return records of different courses as one; shorter ones are filled up."""
    longest = max(len(r.jerk) for r in records)

    def filled(record: Record) -> Record:
        rest = np.full((longest - len(record.jerk), record.jerk.shape[1]), np.nan, np.float32)
        arrays = {
            name: np.concatenate([getattr(record, name), rest])
            for name in ("offset", "front", "heading", "jerk")
        }
        return Record(**arrays, end=record.end)

    names = set.intersection(*(set(r.end) for r in records))
    parts = [filled(r) for r in records]
    return join(
        [Record(p.offset, p.front, p.heading, p.jerk, {n: p.end[n] for n in names}) for p in parts]
    )
