"""A rollout as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from steerlab.line_styles import BLUE, GREEN, VERMILION
from steerlab.surrogates.segments.data import CONTROL_START, DT
from steerlab.types import Floats

_EVERY = 10  # steps between the pictures of an animation, as in comma's debug mode


def draw_rollout(
    name: str, target: Floats, lataccel: Floats, steer: Floats, roll_lataccel: Floats
) -> NDArray[np.uint8]:
    """Return a picture (480, 720, 3) of a rollout so far.

    Args:
        name: Route name for the title.
        target: (500,) target of the whole segment, m/s^2.
        lataccel: (t,) response so far, m/s^2.
        steer: (t,) actions so far.
        roll_lataccel: (t,) lateral acceleration from road roll, m/s^2.
    """
    figure = Figure(figsize=(7.2, 4.8), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    plot_rollout(figure, name, target, lataccel, steer, roll_lataccel)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def plot_rollout(
    figure: Figure,
    name: str,
    target: Floats,
    lataccel: Floats,
    steer: Floats,
    roll_lataccel: Floats | None = None,
) -> None:
    """Draw target and response above, action and roll below, against time in seconds."""
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    seconds = np.arange(len(target)) * DT
    now = len(lataccel)
    above.plot(seconds, target, color="#888888", label="target")
    above.plot(seconds[:now], lataccel, color=BLUE, linewidth=1.2, label="response")
    above.set(title=f"segment {name}", ylabel="lateral acceleration\nm/s²")
    below.plot(seconds[:now], steer, color=VERMILION, linewidth=1.0, label="steer")
    if roll_lataccel is not None:
        below.plot(seconds[:now], roll_lataccel, color=GREEN, linewidth=1.0, label="roll, m/s²")
    label = "steer" if roll_lataccel is None else "steer\nroll, m/s²"
    below.set(xlabel="time, s", ylabel=label, xlim=(0, seconds[-1]))
    for axes in (above, below):
        axes.axvspan(0, CONTROL_START * DT, color="#eeeeee", zorder=0)
        axes.legend(loc="upper right", fontsize=8, framealpha=0.9)
        axes.grid(alpha=0.3)


def animate_rollout(path: Path, name: str, steps: Mapping[str, NDArray[Any]]) -> None:
    """Write a rollout as an animation, a picture for each second: the panels of comma's debug mode.

    Args:
        path: A file whose name ends in ``.gif``.
        name: Route name for the title.
        steps: Columns (T,) ``target_lataccel``, ``current_lataccel`` (m/s^2), ``action``,
            ``roll_lataccel`` (m/s^2) and ``v_ego`` (m/s).
    """
    from matplotlib.animation import FuncAnimation, PillowWriter  # for those who animate only

    figure = Figure(figsize=(8, 8), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    panels = {
        "lateral acceleration\nm/s²": ("target_lataccel", "current_lataccel"),
        "action": ("action",),
        "roll, m/s²": ("roll_lataccel",),
        "speed, m/s": ("v_ego",),
    }
    lines = {}
    seconds = np.arange(len(steps["action"])) * DT
    colors = {"target_lataccel": "#888888", "action": VERMILION, "roll_lataccel": GREEN}
    for axes, (label, columns) in zip(figure.subplots(4, sharex=True), panels.items(), strict=True):
        for column in columns:
            # Drawn whole once, so that the limits of the axes do not move.
            color = colors.get(column, BLUE)
            (lines[column],) = axes.plot(seconds, steps[column], color=color, label=column)
        axes.axvline(CONTROL_START * DT, color="black", linestyle="--", linewidth=0.8, alpha=0.5)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(loc="upper right", fontsize=8)
    figure.axes[-1].set(xlabel="time, s", xlim=(0, seconds[-1]))
    title = figure.axes[0].set_title(name)
    figure.canvas.draw()
    figure.set_layout_engine("none")  # laid out once, which takes longer than drawing

    def show(end: int) -> list[Any]:
        for column, line in lines.items():
            line.set_data(seconds[:end], steps[column][:end])
        title.set_text(f"segment {name}, step {end}")
        return [*lines.values(), title]

    ends = [*range(_EVERY, len(seconds), _EVERY), len(seconds)]
    FuncAnimation(figure, show, ends).save(path, PillowWriter(fps=10))
