"""The picture of a tracking episode: the phase plane, with the input below it."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.line_styles import BLUE, VERMILION
from steerlab.types import Floats


def draw(
    problem: TrackingProblem, states: Floats, controls: Floats, target: Floats
) -> NDArray[np.uint8]:
    """Return a picture (400, 400, 3).

    Args:
        problem: What is being solved; gives the scale of the axes.
        states: Path so far (k+1, 2).
        controls: Inputs so far (k, 1).
        target: (2,).
    """
    figure = Figure(figsize=(4, 4), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    plane, strip = figure.subplots(2, 1, height_ratios=(4, 1))
    reach = 1.5 * max(problem.spread, problem.target_spread)
    low = np.minimum(states.min(axis=0), target)
    high = np.maximum(states.max(axis=0), target)
    plane.plot(*states.T, "-o", markersize=3, color=BLUE)
    plane.plot(*states[0], "s", color="grey", label="start")
    plane.plot(*target, "*", markersize=12, color=VERMILION, label="target")
    plane.set(
        xlim=(min(-reach, low[0] - 0.2), max(reach, high[0] + 0.2)),
        ylim=(min(-reach, low[1] - 0.2), max(reach, high[1] + 0.2)),
        xlabel="position",
        ylabel="velocity",
    )
    plane.legend(loc="upper right", fontsize="small")
    plane.grid(alpha=0.3)
    times = np.arange(len(controls) + 1) * problem.dt
    strip.stairs(controls[:, 0], times, baseline=None, color=BLUE)
    strip.set(
        xlim=(0, problem.horizon),
        ylim=(-1.1 * problem.limit, 1.1 * problem.limit),
        xlabel="time (s)",
        ylabel="input",
    )
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
