"""One colour, marker and dash a method, the same in every figure."""

from collections.abc import Iterable
from itertools import product
from typing import Any

#: Colours of Okabe and Ito (2008), which colour-blind people tell apart; without their yellow, which
#: is pale on white. The three are for what is no method: plan and target, success and failure, signals.
BLUE, VERMILION, GREEN = "#0072b2", "#d55e00", "#009e73"
# Dashes change with every round of colours.
_COLOURS = (BLUE, VERMILION, GREEN, "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = "osv^DPX"
_DASHES = ("-", "--", ":")
_STYLES = [
    {"color": colour, "marker": marker, "linestyle": dash}
    for dash, (colour, marker) in product(_DASHES, zip(_COLOURS, _MARKERS, strict=True))
]
#: Methods that several figures show, by the place of their style; if two of one place meet, the later
#: one gets what is left.
_PLACES = {
    "policynet": 0,
    "trc": 0,
    "pi0": 0,
    "preview": 1,
    "mlp": 1,
    "recurrent": 2,
    "pi0-fast": 2,
    "untrained": 3,
    "linear map": 3,
    "pid": 4,
    "zero": 5,
    "lqr": 5,
    "lqr, rolled out": 12,  # the same colour in another dash
    "optimum": 6,
    "mpc": 6,
    "mpc, rolled out": 13,
}


def line_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return colour, marker and line style by name, as keywords of matplotlib's ``plot``.

    Known methods have the same style in every figure; others get what is left, in their order.

    Args:
        names: Methods of one figure.
    """
    names = list(dict.fromkeys(names))
    places: dict[str, int] = {}
    for name in names:
        place = _PLACES.get(_key(name))
        if place is not None and place not in places.values():
            places[name] = place
    free = (i for i in range(len(names) + len(_STYLES)) if i not in places.values())
    for name in names:
        if name not in places:
            places[name] = next(free) % len(_STYLES)
    return {name: dict(_STYLES[places[name]]) for name in names}


def _key(name: str) -> str:
    return name.lower().replace("_", "-")
