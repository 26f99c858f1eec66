"""Tables and plots of controllers on the pendulum."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from steerlab.agents.inverted_pendulum.episodes import OBSTACLE, Rollouts
from steerlab.agents.inverted_pendulum.evaluate import Cell, interval, rates
from steerlab.envs.inverted_pendulum.dynamics import STEP_SECONDS
from steerlab.files import atomic_path
from steerlab.line_styles import BLUE, VERMILION, line_styles


def table(cells: list[Cell], variant: str, key: str) -> Table:
    """Return one rate in percent, a column a setting, with its deviation over models."""
    settings = sorted({(c.noise, c.replan) for c in cells})
    title = f"{key} in %, plant: {variant}, noise / replan"
    found = Table(
        title=title, box=None, header_style="bold", padding=(0, 1, 0, 0), min_width=len(title)
    )
    found.add_column("controller", no_wrap=True)
    for noise, replan in settings:
        found.add_column(f"{noise:g} / {replan}", justify="right", no_wrap=True)
    for name in dict.fromkeys(c.controller for c in cells):
        row = {(c.noise, c.replan): getattr(c, key) for c in cells if c.controller == name}
        members = len(row[settings[0]])
        texts = [f"{np.mean(row[s]):.1f}" for s in settings]
        if members > 1:
            texts = [
                f"{text}±{np.std(row[s], ddof=1):.1f}"
                for text, s in zip(texts, settings, strict=True)
            ]
        found.add_row(f"{name} ({members})" if members > 1 else name, *texts)
    return found


def plot(cells: list[Cell], path: Path, most: int = 4) -> None:
    """Draw success and convergence over the replan interval, a panel a plant and noise.

    Success is above the convergence (or arrival) of the same panel, and ``most`` panels are side by side.
    """
    panels = list(dict.fromkeys((c.variant, c.noise) for c in cells))
    wide, high = min(len(panels), most), 2 * -(-len(panels) // most)
    figure = Figure(figsize=(3.6 * wide + 2, 3 * high), layout="constrained")
    grid = figure.subplots(high, wide, sharex=True, sharey="row", squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, panel in enumerate(panels):
        block, column = divmod(number, most)
        for row, key in enumerate(rates(cells)):
            axes = grid[2 * block + row, column]
            axes.set_axis_on()
            _panel(axes, [c for c in cells if (c.variant, c.noise) == panel], key)
            if column == 0:
                axes.set_ylabel(f"{key} in %")
        grid[2 * block, column].set_title(f"{panel[0]}, noise {panel[1]:g}")
        grid[2 * block + 1, column].set_xlabel("replan interval in steps")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _panel(axes: Any, cells: list[Cell], key: str) -> None:
    """Draw one rate of every controller over the replan interval, with its 95 % interval."""
    for name, style in line_styles(c.controller for c in cells).items():
        line = sorted((c for c in cells if c.controller == name), key=lambda c: c.replan)
        means = np.array([np.mean(getattr(c, key)) for c in line])
        bounds = np.array([interval(getattr(c, key), c.episodes) for c in line])
        axes.errorbar(
            [c.replan for c in line], means, np.abs(bounds.T - means), capsize=2,
            markersize=3, label=name, linewidth=2 if name.startswith("pi0") else 1, **style,
        )  # fmt: skip
    axes.grid(alpha=0.3)


def plot_paths(
    runs: dict[str, Rollouts], goals: tuple[float, ...], path: Path, most: int = 40
) -> None:
    """Draw where the cart goes, a panel a controller: ``most`` episodes, orange those that fail."""
    figure = Figure(figsize=(2.6 * len(runs), 3.2), layout="constrained")
    panels = figure.subplots(1, len(runs), sharex=True, sharey=True, squeeze=False)
    width, first = OBSTACLE
    for axes, (name, played) in zip(panels[0], runs.items(), strict=True):
        seconds = np.arange(played.states.shape[1]) * STEP_SECONDS
        axes.fill_between(seconds[first:], -width, width, color="0.85", linewidth=0)
        for goal in goals:
            axes.axhline(goal, color="0.6", linestyle=":", linewidth=1)
        for end, good, states in zip(
            played.steps[:most], played.survived, played.states, strict=False
        ):
            colour = BLUE if good else VERMILION
            axes.plot(seconds[: end + 1], states[: end + 1, 0], color=colour, linewidth=0.7)
            if not good:
                axes.plot(seconds[end], states[end, 0], "x", color=colour, markersize=4)
        axes.set_title(name)
        axes.set_xlabel("time in s")
    panels[0, 0].set_ylabel("cart in m")
    panels[0, 0].set_ylim(-2.5, 2.5)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
