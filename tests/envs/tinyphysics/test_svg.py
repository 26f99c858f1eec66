"""Plots as SVG: where values lie, which ticks are chosen, and that any text is safe in them."""

import base64
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from steerlab.envs.tinyphysics.svg import Axis, Panel, image, text


def test_places_on_an_axis() -> None:
    np.testing.assert_allclose(Axis(2, 6).place(np.array([2.0, 3.0, 6.0])), [0, 0.25, 1])
    log = Axis(1, 100, log=True)
    np.testing.assert_allclose(log.place(np.array([1.0, 10.0, 100.0])), [0, 0.5, 1])


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis(0, 50), [0, 10, 20, 30, 40, 50]),
        (Axis(-0.7, 0.32), [-0.6, -0.4, -0.2, 0, 0.2]),
        (Axis(30, 4000, log=True), [50, 100, 200, 500, 1000, 2000]),
        (Axis(0.2, 4e5, log=True), [1, 10, 100, 1000, 1e4, 1e5]),
    ],
)
def test_ticks_are_round(axis: Axis, ticks: list[float]) -> None:
    np.testing.assert_allclose(axis.ticks(), ticks, atol=1e-12)


def test_an_axis_around_a_constant_has_a_length() -> None:
    axis = Axis.around([np.zeros(3)], "steer command")
    assert axis.low < 0 < axis.high
    assert len(axis.ticks()) >= 2


def test_a_picture_shows_the_values() -> None:
    panel = Panel(10, 20, 100, 50, Axis(0, 1, "time, s"), Axis(0, 5, "a < b & c"))
    panel.line(np.array([0.0, 0.5, 1.0]), np.array([0.0, 5.0, 2.5]), "#0072b2", "<mine>")
    panel.bars(np.array([0.0, 0.5, 1.0]), np.array([0, 3]), "#d55e00", "other")
    picture = image(120, 90, [panel.svg(), text(0, 0, "<b>")], 'says "so"')
    assert 'alt="says &quot;so&quot;"' in picture
    found = re.search(r'base64,([^"]+)"', picture)
    assert found
    root = ElementTree.fromstring(base64.b64decode(found[1]))
    name = "{http://www.w3.org/2000/svg}"
    (line,) = root.iter(f"{name}polyline")
    assert line.get("points") == "10.0,70.0 60.0,20.0 110.0,45.0"
    bars = [r for r in root.iter(f"{name}rect") if r.get("fill") == "#d55e00"]
    assert [(b.get("x"), b.get("y"), b.get("height")) for b in bars] == [("60.0", "40.0", "30.0")]
    words = [t.text for t in root.iter(f"{name}text")]
    assert {"time, s", "a < b & c", "<mine>", "other", "<b>"} <= set(words)
