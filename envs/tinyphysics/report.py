"""The HTML report of a TinyPhysics evaluation: one file, nothing to load from elsewhere."""

import base64
import html
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import steerlab
from steerlab.envs.tinyphysics.render import plot_rollout
from steerlab.envs.tinyphysics.rollout import Evaluation
from steerlab.files import atomic_path
from steerlab.surrogates.segments.data import CONTROL_START, DT

_SAMPLES = 5
_COLORS = ("#0b5fa5", "#8a3ffc")
_LABELS = {
    "lataccel_cost": "tracking cost",
    "jerk_cost": "jerk cost",
    "total_cost": "total cost",
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .9rem; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
footer { color: #777; margin-top: 2rem; }
"""


def write_report(
    path: Path, results: Mapping[str, Evaluation], settings: Mapping[str, str]
) -> None:
    """Write costs, histograms and sample rollouts of one or two controllers.

    Args:
        path: The file.
        results: Evaluations on the same segments by name of the controller, the one that the
            report is about first.
        settings: What they were made with, for the header.
    """
    names = [Path(name).stem for name in results]
    evaluations = list(results.values())
    title = f"TinyPhysics: {' against '.join(names)}"
    described = " · ".join(f"{html.escape(k)} {html.escape(v)}" for k, v in settings.items())
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{len(evaluations[0].names)} routes · {described}</p>",
        _table(names, evaluations),
        _comparison(names, evaluations) if len(names) > 1 else "",
        "<h2>Distribution of the costs</h2>",
        _image(_histograms(names, evaluations)),
        "<h2>Sample rollouts</h2>",
        "<p>Routes at even distances in the order of the total cost, best to worst.</p>",
        *(_image(_sample(names, evaluations, i)) for i in _chosen(evaluations[0])),
        f"<footer>steerlab {steerlab.__version__}</footer>",
    ]
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _table(names: list[str], evaluations: list[Evaluation]) -> str:
    rows = []
    for name, evaluation in zip(names, evaluations, strict=True):
        for key, label in _LABELS.items():
            values = getattr(evaluation.costs, key)
            figures = (values.mean(), np.median(values), np.percentile(values, 95), values.max())
            cells = "".join(f"<td>{f:.3f}</td>" for f in figures)
            rows.append(f"<tr><td>{html.escape(name)}, {label}</td>{cells}</tr>")
    header = "".join(f"<th>{h}</th>" for h in ("", "mean", "median", "p95", "worst"))
    return f"<table><tr>{header}</tr>{''.join(rows)}</table>"


def _comparison(names: list[str], evaluations: list[Evaluation]) -> str:
    first, second = (e.costs.total_cost for e in evaluations[:2])
    return (
        f"<p>{html.escape(names[0])} has the lower total cost on {(first < second).sum()} of "
        f"{len(first)} routes; the median of its cost over that of {html.escape(names[1])} is "
        f"{np.median(first / second):.3f}.</p>"
    )


def _figure(height: float, **spaces: float) -> Figure:
    """Return a figure with its margins set: laying it out by what is in it takes longer than drawing."""
    figure = Figure(figsize=(11, height))
    figure.subplots_adjust(0.085, 0.52 / height, 0.99, 1 - 0.32 / height, **spaces)
    return figure


def _histograms(names: list[str], evaluations: list[Evaluation]) -> Figure:
    figure = _figure(3.2, wspace=0.22)
    for axes, (key, label) in zip(figure.subplots(1, 3), _LABELS.items(), strict=True):
        columns = [np.maximum(getattr(e.costs, key), 1e-3) for e in evaluations]
        together = np.concatenate(columns)
        low, high = together.min() * 0.95, together.max() * 1.05
        wide = high > 10 * low  # a logarithmic axis of less than a decade has crowded labels
        bins = np.geomspace(low, high, 30) if wide else np.linspace(low, high, 30)
        for name, values, color in zip(names, columns, _COLORS, strict=False):
            axes.hist(values, bins, alpha=0.6, color=color, label=name)
        axes.set(xscale="log" if wide else "linear", xlabel=label, ylabel="routes")
        axes.legend(fontsize=8)
    return figure


def _chosen(evaluation: Evaluation) -> list[int]:
    order = np.argsort(evaluation.costs.total_cost)
    places = np.linspace(0, len(order) - 1, min(_SAMPLES, len(order))).astype(int)
    return [int(order[p]) for p in places]


def _sample(names: list[str], evaluations: list[Evaluation], index: int) -> Figure:
    figure = _figure(4.0, hspace=0.08)
    first = evaluations[0]
    plot_rollout(
        figure, first.names[index], first.target[index], first.lataccel[index], first.steer[index]
    )
    above, below = figure.axes
    seconds = np.arange(CONTROL_START, first.lataccel.shape[1]) * DT
    for name, other in zip(names[1:], evaluations[1:], strict=True):
        for axes, values in ((above, other.lataccel), (below, other.steer)):
            later = values[index, CONTROL_START:]
            axes.plot(seconds, later, color=_COLORS[1], alpha=0.5, linewidth=0.9, label=name)
            axes.legend(loc="upper right", fontsize=8)
    costs = ", ".join(
        f"{name} {e.costs.total_cost[index]:.1f}"
        for name, e in zip(names, evaluations, strict=True)
    )
    above.set_title(f"route {first.names[index]}: total cost {costs}")
    return figure


def _image(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<p><img alt="" src="data:image/png;base64,{data}"></p>'
