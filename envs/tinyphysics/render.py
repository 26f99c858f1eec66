"""A rollout as a picture."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from steerlab.surrogates.segments.data import CONTROL_START, DT

Floats = NDArray[np.float64]


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
    above.plot(seconds[:now], lataccel, color="#0b5fa5", linewidth=1.2, label="response")
    above.set(title=f"segment {name}", ylabel="lateral acceleration\nm/s²")
    below.plot(seconds[:now], steer, color="#c1440e", linewidth=1.0, label="steer")
    if roll_lataccel is not None:
        below.plot(seconds[:now], roll_lataccel, color="#5a7d2a", linewidth=1.0, label="roll, m/s²")
    below.set(xlabel="time, s", xlim=(0, seconds[-1]))
    for axes in (above, below):
        axes.axvspan(0, CONTROL_START * DT, color="#eeeeee", zorder=0)
        axes.legend(loc="upper right", fontsize=8, framealpha=0.9)
        axes.grid(alpha=0.3)
