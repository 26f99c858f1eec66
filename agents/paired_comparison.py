"""Two learners on the same roads: paired intervals of their difference, and a plot of their returns."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from steerlab.files import atomic_path
from steerlab.line_styles import line_styles

#: By quantity the values (roads,) of one training's episodes.
Episodes = dict[str, NDArray[Any]]
#: Middle, lower and upper end by quantity and arm.
Summary = dict[str, dict[str, tuple[float, float, float]]]


def paired_intervals(
    results: Mapping[str, Sequence[Episodes]],
    measures: Mapping[str, Callable[[Episodes], float]],
    resamples: int,
) -> Summary:
    """Return estimate and 95 % interval by measure and arm; ``difference`` is cvar - mean.

    A resample draws seeds, and for each drawn seed roads, which are the same for both arms.

    Args:
        results: Episodes of each seed of the arms ``mean`` and ``cvar``.
        measures: What is estimated from the episodes of one seed; the mean over seeds is reported.
        resamples: Resamples of the bootstrap.
    """
    rng = np.random.default_rng(0)
    count = len(results["mean"])
    roads = len(next(iter(results["mean"][0].values())))
    draws = []
    whole = [(s, np.arange(roads)) for s in range(count)]
    for _ in range(resamples):
        picked = rng.integers(0, count, count)
        draws.append([(s, rng.integers(0, roads, roads)) for s in picked.tolist()])
    summary: Summary = {}
    for name, measure in measures.items():

        def value(arm: str, pairs: Any, measure: Any = measure) -> float:
            parts = [{k: v[i] for k, v in results[arm][s].items()} for s, i in pairs]
            return float(np.mean([measure(part) for part in parts]))

        point = {arm: value(arm, whole) for arm in results}
        sampled = {arm: np.array([value(arm, d) for d in draws]) for arm in results}
        point["difference"] = point["cvar"] - point["mean"]
        sampled["difference"] = sampled["cvar"] - sampled["mean"]
        summary[name] = {
            arm: (point[arm], *np.percentile(sampled[arm], [2.5, 97.5]).tolist()) for arm in point
        }
    return summary


def print_intervals(summary: Summary, titles: Mapping[str, str], title: str) -> None:
    """Print a row for each measure, a column for each arm and one for the difference."""
    table = Table(
        "", "for the mean", "for CVaR", "difference (paired)", header_style="bold", title=title
    )
    for name, words in titles.items():
        cells = [
            f"{middle:.3g} [{low:.3g}, {high:.3g}]"
            for middle, low, high in (summary[name][a] for a in ("mean", "cvar", "difference"))
        ]
        table.add_row(words, *cells)
    Console().print(table)


def plot_returns(results: Mapping[str, Sequence[Episodes]], path: Path) -> None:
    """Draw the share of episodes below each return, a line a seed."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    styles = line_styles(results)
    labels = {"mean": "for the mean", "cvar": "for CVaR"}
    for name, runs in results.items():
        for i, found in enumerate(runs):
            ordered = np.sort(found["returns"])
            share = (np.arange(len(ordered)) + 1) / len(ordered)
            axes.plot(
                ordered, share, label=labels[name] if not i else None, linewidth=1,
                markevery=0.2, markersize=3, **styles[name],
            )  # fmt: skip
    axes.set(xlabel="return (% of a perfect drive)", ylabel="share of episodes below", yscale="log")
    axes.legend()
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
