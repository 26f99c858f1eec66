"""Line styles: fixed for known methods, apart within a figure."""

from steerlab.line_styles import line_styles

FIGURES = [
    ["PolicyNet", "preview", "untrained", "mine", "other"],
    ["pi0", "pi0-FAST", "MLP", "linear map"],
    ["TRC", "MLP", "clipped LQR", "optimum"],
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
