"""The table and the plots of policies that drove held-out episodes."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from steerlab.agents.policynet.evaluate import (
    TARGETS,
    Figures,
    HeldOut,
    MakeDriver,
    figures,
    held_out,
)
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.record import CTE_CAPTION, Record
from steerlab.envs.kinematic_driver.violations import VIOLATIONS
from steerlab.files import atomic_path, write_json
from steerlab.line_styles import BLUE, VERMILION, line_styles

PLAN_STEPS = (20, 140, 260)  # of an episode, whose plans are drawn

#: Rows of the table: name of the figure, words, format.
_ROWS = (
    ("cte_p95", "CTE P95 (m)", ".3f"),
    ("cte_p95_start", "  start", ".3f"),
    ("cte_p95_steady", "  steady state", ".3f"),
    ("front_p95_steady", "  steady, front", ".3f"),
    ("heading_p95", "heading error P95 (rad)", ".4f"),
    ("jerk_rms", "jerk RMS (m/s^3)", ".2f"),
    ("violations", "episodes with a violation", "d"),
    ("boundary", "  boundary", "d"),
    ("cuts", "  turn cut", "d"),
    ("wrong_way", "  wrong way", "d"),
    ("stall", "  standstill", "d"),
    ("cte_p50_steady", "CTE P50, steady (m)", ".3f"),
    ("cte_max", "CTE, largest (m)", ".2f"),
    ("progress", "way at the set speed (%)", ".1f"),
    ("return_mean", "return", ".1f"),
    ("return_cvar", "return, worst 5 %", ".1f"),
    ("km", "km driven", ".0f"),
)


def report(
    records: Mapping[str, Record], output: Path, others: HeldOut | None = None
) -> dict[str, Figures]:
    """Print the table, draw ``drivers.png``, write the figures; return them.

    They go to ``held_out.json``, or to ``hard.json`` where ``others`` were driven.
    """
    found = {name: figures(record) for name, record in records.items()}
    them = others or held_out()
    print_figures(found, them.name)
    print_violations(records, them)
    plot_records(records, output / "drivers.png")
    told = {name: f.as_dict() for name, f in found.items()}
    write_json(output / f"{them.name.replace('-', '_')}.json", told)
    return found


def print_figures(columns: Mapping[str, Figures], kind: str = "held-out") -> None:
    """Print targets against figures, one column a driver."""
    episodes = next(iter(columns.values())).episodes
    table = Table(
        title=f"{episodes} {kind} episodes of KinematicDriver-v0",
        header_style="bold", caption=CTE_CAPTION,
    )  # fmt: skip
    # In a narrow terminal the rows' words wrap, and no name is cut.
    table.add_column("", min_width=max(len(w) for _, text, _ in _ROWS for w in text.split()) + 2)
    table.add_column("target", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=" " not in name)
    for name, words, form in _ROWS:
        target = ""
        if name in TARGETS:
            limit = TARGETS[name][0]
            target = f"< {limit:g}" if limit else "0"
        cells = []
        for found in columns.values():
            text = format(getattr(found, name), form)
            if name in TARGETS:
                text = f"[{'green' if found.meets(name) else 'bold red'}]{text}[/]"
            cells.append(text)
        table.add_row(words, target, *cells)
    Console().print(table)


def print_violations(records: Mapping[str, Record], them: HeldOut, most: int = 5) -> None:
    """Say which of the first episodes ended in a violation, so that they can be filmed."""
    first = them.first_seed
    for name, record in records.items():
        kinds = record.end["violation"]
        rows = np.flatnonzero(kinds)
        if 0 < len(rows) <= most:
            told = ", ".join(f"{first + row} ({VIOLATIONS[kinds[row]]})" for row in rows)
            Console().print(f"{name}: violations at seed {told}")


def plot_records(records: Mapping[str, Record], path: Path) -> None:
    """Draw how far off the path the drivers were, and how rough, over all steps."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    styles = line_styles(records)
    for name, record in records.items():
        for axis, key in zip(axes, ("offset", "heading", "jerk"), strict=True):
            values = getattr(record, key)
            values = np.sort(values[~np.isnan(values)])
            values = values[np.linspace(0, len(values) - 1, 400).astype(int)]
            share = np.linspace(0, 1, len(values))
            axis.plot(values, share, label=name, markevery=0.1, markersize=4, **styles[name])
    labels = ("offset from the path (m)", "heading error (rad)", "jerk (m/s^3)")
    limits = (TARGETS["cte_p95"][0], TARGETS["heading_p95"][0], None)
    for axis, label, limit in zip(axes, labels, limits, strict=True):
        axis.set(xlabel=label, xlim=(0, (2 * limit if limit else 6)))
        axis.grid(alpha=0.3)
        if limit:
            axis.plot([limit, limit], [0, 0.95], color="grey", linestyle=":", label="target (P95)")
    axes[0].set_ylabel("share of steps below")
    axes[0].legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def plot_plan(
    make: MakeDriver,
    path: Path,
    seed: int,
    steps: tuple[int, ...],
    env: KinematicDriverVectorEnv | None = None,
) -> None:
    """Draw plans of one episode over the way that was then driven.

    Args:
        make: Makes the driver.
        path: Of the picture.
        seed: Of the episode.
        steps: Whose plans are drawn.
        env: One row; by default that of the held-out episodes.
    """
    env = env or KinematicDriverVectorEnv(1, held_out().max_episode_steps, held_out().ranges)
    driver: Any = make(env)
    observation, info = env.reset(seed=seed)
    driver.reset(observation, info)
    x = y = yaw = 0.0
    way: list[tuple[float, float]] = []
    plans: dict[int, NDArray[np.float64]] = {}
    over, step = False, 0
    while not over:
        action = driver(observation, info)
        way.append((x, y))
        if step in steps:
            ahead = driver.step.outputs["plan_hypotheses" if "plan_hypotheses" in
                                        driver.step.outputs else "plan"][0]  # fmt: skip
            ahead = ahead.reshape(-1, 33, 15)[..., :2].astype(float)
            turned = np.array([[math.cos(yaw), math.sin(yaw)], [-math.sin(yaw), math.cos(yaw)]])
            plans[step] = ahead @ turned + (x, y)
        before = float(info["speed"][0])
        observation, _, terminated, truncated, info = env.step(action)
        over = bool(terminated[0] or truncated[0])
        if not over:
            speed, turn = 0.5 * (before + float(info["speed"][0])), float(info["curvature"][0])
            turn *= 0.05 * speed
            x += 0.05 * speed * math.cos(yaw + turn / 2)
            y += 0.05 * speed * math.sin(yaw + turn / 2)
            yaw += turn
        step += 1
    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    line = np.array(way)
    axis.plot(line[:, 1], line[:, 0], color="black", linewidth=3, alpha=0.3, label="driven")
    for i, hypotheses in enumerate(plans.values()):
        for j, plan in enumerate(hypotheses):
            label = "plan (best hypothesis)" if not j else "other hypotheses"
            axis.plot(
                plan[:, 1], plan[:, 0], color=BLUE if not j else VERMILION, zorder=3 - min(j, 1),
                alpha=1.0 if not j else 0.5, linewidth=1.2, label=label if i == 0 and j < 2 else None,
            )  # fmt: skip
    axis.set(xlabel="right (m)", ylabel="forward (m)")
    axis.set_aspect("equal", "datalim")
    axis.grid(alpha=0.3)
    axis.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
