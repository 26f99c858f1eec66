"""The HTML report of a TinyPhysics evaluation: one file, nothing to load from elsewhere."""

import html
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

import steerlab
from steerlab.envs.tinyphysics.rollout import Evaluation
from steerlab.envs.tinyphysics.svg import Axis, Panel, image, text
from steerlab.files import atomic_path
from steerlab.line_styles import BLUE, VERMILION
from steerlab.surrogates.segments.data import CONTROL_START, DT

_SAMPLES = 5
_COLORS = (BLUE, VERMILION)
_WIDTH = 560  # of a picture: its text is about as large as the page's on a phone of 390 pixels
_LABELS = {
    "lataccel_cost": "tracking cost",
    "jerk_cost": "jerk cost",
    "total_cost": "total cost",
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; overflow-wrap: normal; }
.row { display: flex; flex-wrap: wrap; gap: .5rem; }
.row img { flex: 1 1 17rem; min-width: 0; max-width: 24rem; }
img { width: 100%; max-width: 44rem; }
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
        f'<div class="row">{"".join(_histograms(names, evaluations))}</div>',
        "<h2>Sample rollouts</h2>",
        "<p>Routes at even distances in the order of the total cost, best to worst.</p>",
        *(_sample(names, evaluations, i) for i in _chosen(evaluations[0])),
        f"<footer>steerlab {steerlab.__version__}</footer>",
    ]
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
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
    return f'<div class="wide"><table><tr>{header}</tr>{"".join(rows)}</table></div>'


def _comparison(names: list[str], evaluations: list[Evaluation]) -> str:
    first, second = (e.costs.total_cost for e in evaluations[:2])
    return (
        f"<p>{html.escape(names[0])} has the lower total cost on {(first < second).sum()} of "
        f"{len(first)} routes; the median of its cost over that of {html.escape(names[1])} is "
        f"{np.median(first / second):.3f}.</p>"
    )


def _histograms(names: list[str], evaluations: list[Evaluation]) -> list[str]:
    pictures = []
    for key, label in _LABELS.items():
        columns = [np.maximum(getattr(e.costs, key), 1e-3) for e in evaluations]
        together = np.concatenate(columns)
        low, high = float(together.min() * 0.95), float(together.max() * 1.05)
        wide = high > 10 * low  # a logarithmic axis of less than a decade has crowded labels
        edges = np.geomspace(low, high, 30) if wide else np.linspace(low, high, 30)
        edges[0], edges[-1] = low, high  # not a bit beside them
        counts = [np.histogram(values, edges)[0] for values in columns]
        most = max(4.0, float(np.max(counts))) * 1.05
        panel = Panel(75, 32, 305, 236, Axis(low, high, label, wide), Axis(0, most, "routes"))
        for name, count, color in zip(names, counts, _COLORS, strict=False):
            panel.bars(edges, count, color, name)
        medians = " and ".join(
            f"{name} {np.median(values):.1f}" for name, values in zip(names, columns, strict=True)
        )
        alternative = f"Histogram of the {label} over routes; medians: {medians}"
        pictures.append(image(390, 320, [panel.svg()], alternative))
    return pictures


def _chosen(evaluation: Evaluation) -> list[int]:
    order = np.argsort(evaluation.costs.total_cost)
    places = np.linspace(0, len(order) - 1, min(_SAMPLES, len(order))).astype(int)
    return [int(order[p]) for p in places]


def _sample(names: list[str], evaluations: list[Evaluation], index: int) -> str:
    first = evaluations[0]
    seconds = np.arange(first.lataccel.shape[1], dtype=np.float64) * DT
    target = first.target[index]
    responses = [e.lataccel[index] for e in evaluations]
    steers = [e.steer[index] for e in evaluations]
    time = Axis(0, float(seconds[-1]), "time, s", numbers=False)
    width = _WIDTH - 85
    above = Panel(
        75, 32, width, 244, time, Axis.around([target, *responses], "lateral acceleration, m/s²")
    )
    below = Panel(
        75, 286, width, 122, replace(time, numbers=True), Axis.around(steers, "steer command")
    )
    for panel in (above, below):
        panel.band(0, CONTROL_START * DT)
    above.line(seconds, target, "#888888", "target")
    for panel, rows in ((above, responses), (below, steers)):
        for i, (name, values, color) in enumerate(zip(names, rows, _COLORS, strict=False)):
            shown = slice(CONTROL_START if i else 0, None)  # all are the same before
            panel.line(seconds[shown], values[shown], color, name, dashed=i > 0)
    costs = ", ".join(
        f"{name} {e.costs.total_cost[index]:.1f}"
        for name, e in zip(names, evaluations, strict=True)
    )
    title = f"route {first.names[index]}: total cost {costs}"
    parts = [text(75 + width / 2, 22, title, "middle"), above.svg(), below.svg()]
    return f"<p>{image(_WIDTH, 460, parts, f'Target, response and steer over time on {title}')}</p>"
