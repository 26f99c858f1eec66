"""Each room lists its public names; they import, are described, and cost nothing before."""

import importlib
import inspect
import subprocess
import sys

import pytest

ROOMS = ("surrogates", "envs", "agents", "exporters", "openpilot")


@pytest.mark.parametrize("room", ROOMS)
def test_public_names(room: str) -> None:
    package = importlib.import_module(f"steerlab.{room}")
    assert package.__all__
    for name in package.__all__:
        found = getattr(package, name)
        assert inspect.getdoc(found), f"{room}.{name} has no docstring"
        assert found.__module__.startswith(f"steerlab.{room}."), name
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="nothing_such"):
        package.nothing_such  # noqa: B018


def test_doors_are_lazy() -> None:
    rooms = ", ".join(f"steerlab.{room}" for room in ROOMS)
    code = (
        f"import sys, {rooms}; print([m for m in ('torch', 'onnx', 'numba') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
