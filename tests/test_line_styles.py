"""Line styles: fixed for known methods, apart within a figure."""

import ast
import re

from steerlab.line_styles import line_styles
from tests.structure import FOLDERS, ROOT

FIGURES = [
    ["PolicyNet", "preview", "untrained", "mine", "other"],
    ["pi0", "pi0-FAST", "MLP", "linear map"],
    ["TRC", "MLP", "clipped LQR", "optimum"],
    ["PID", "LQR", "MPC", "LQR, rolled out", "MPC, rolled out", "linear map", "MLP", "pi0"],
    ["preview", "MLP", "trc", "PolicyNet"],  # two and two have the same place
    [f"run {i}" for i in range(15)],
]


def test_a_method_looks_the_same_in_every_figure() -> None:
    for names in FIGURES[:3]:
        for name in names:
            if name.lower() in ("policynet", "preview", "pi0", "pi0-fast", "mlp", "trc"):
                assert line_styles(names)[name] == line_styles(["other", name])[name]
    assert line_styles(["pi0_fast"])["pi0_fast"] == line_styles(["pi0-FAST"])["pi0-FAST"]


def test_methods_of_a_figure_differ() -> None:
    for names in FIGURES:
        found = {tuple(style.values()) for style in line_styles(names).values()}
        assert len(found) == len(names)


def test_no_figure_takes_what_matplotlib_happens_to_choose() -> None:
    """Every line, area and bar names its colour, and none is of matplotlib's own cycle."""
    drawing = {"plot", "errorbar", "bar", "barh", "fill_between", "stairs", "scatter", "hist"}
    drawing |= {"axhline", "axvline", "axvspan", "axhspan", "quiver"}
    found = 0
    for path in sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        modules = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        if not any(module.startswith("matplotlib") for module in modules):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.fullmatch(r"tab:\w+|C\d", node.value), f"{path}:{node.lineno}"
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr in drawing:
                # A style is given by ``**``, whose keyword has no name.
                given = {keyword.arg for keyword in node.keywords}
                assert given & {None, "color"}, f"{path}:{node.lineno} names no colour"
                found += 1
    assert found > 20
