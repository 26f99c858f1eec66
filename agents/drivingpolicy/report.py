"""Drives of a course, in processes, and their table."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from steerlab.agents.drivingpolicy.closed_loop import (
    Course,
    DriveFigures,
    MakeDriver,
    drive_episode,
)
from steerlab.envs.kinematic_driver.record import Record, join
from steerlab.processes import worker_pool

_ROWS = (
    ("km", "km driven", ".2f"),
    ("violations", "violations", "d"),
    ("metres_per_violation", "metres per violation", ".0f"),
    ("cte_p50_steady", "CTE P50, steady (m)", ".2f"),
    ("cte_p95_steady", "CTE P95, steady (m)", ".2f"),
    ("lane_kept", "steps within 0.5 m", ".0%"),
    ("jerk_rms", "jerk RMS (m/s^3)", ".2f"),
    ("progress", "way at the set speed (%)", ".1f"),
)


def drive_course(
    make: MakeDriver, course: Course, episodes: int, name: str, processes: int = 1, first: int = 0
) -> Record:
    """Drive the held-out episodes ``first``, ``first + 1``, .. of a course, each by itself."""
    work = partial(drive_episode, make, course)
    numbers = range(first, first + episodes)
    with tqdm(total=episodes, unit="episode", desc=name) as bar:
        records = []
        if processes > 1:
            with worker_pool(processes) as pool:
                for record in pool.map(work, numbers):
                    records.append(record)
                    bar.update()
        else:
            for record in map(work, numbers):
                records.append(record)
                bar.update()
    return join(records)


def print_figures(columns: Mapping[str, DriveFigures], title: str) -> None:
    """Print one column a driver."""
    kinds: list[str] = list(dict.fromkeys(k for f in columns.values() for k in f.by_kind))
    table = Table(
        title=title, header_style="bold",
        caption="metres of all episodes over all violations, 95 % interval by bootstrap over episodes; "
        "steady: after the first 2 s; steps that a violation cut off count as infinitely far off",
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
