"""Line styles: fixed for known methods, apart within a figure."""

from itertools import pairwise

import numpy as np
from matplotlib.colors import to_rgb

from steerlab.line_styles import line_styles

FIGURES = [
    ["PolicyNet", "preview", "untrained", "mine", "other"],
    ["pi0", "pi0-FAST", "MLP", "linear map"],
    ["TRC", "MLP", "clipped LQR", "optimum"],
    [f"run {i}" for i in range(15)],
]


def test_a_method_looks_the_same_in_every_figure() -> None:
    for names in FIGURES:
        for name in names:
            if name.lower() in ("policynet", "preview", "pi0", "pi0-fast", "mlp", "trc"):
                assert line_styles(names)[name] == line_styles(["other", name])[name]
    assert line_styles(["pi0_fast"])["pi0_fast"] == line_styles(["pi0-FAST"])["pi0-FAST"]


def test_methods_of_a_figure_differ() -> None:
    for names in FIGURES:
        found = {tuple(style.values()) for style in line_styles(names).values()}
        assert len(found) == len(names)


def test_the_first_colours_differ_in_lightness() -> None:
    """Printed in grey, neighbours are still told apart, if not by colour then by marker."""
    styles = list(line_styles(["a", "b", "c", "d", "e", "f", "g"]).values())
    for one, two in pairwise(styles):
        light = [np.dot(to_rgb(s["color"]), (0.2126, 0.7152, 0.0722)) for s in (one, two)]
        assert abs(light[0] - light[1]) > 0.05 or one["marker"] != two["marker"]
