"""Each subpackage lists its public names; they import, are described, and cost nothing before."""

import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

PACKAGES = ("surrogates", "envs", "agents", "exporters", "openpilot")


@pytest.mark.parametrize("folder", PACKAGES)
def test_public_names(folder: str) -> None:
    package = importlib.import_module(f"steerlab.{folder}")
    assert package.__all__
    for name in package.__all__:
        found = getattr(package, name)
        assert inspect.getdoc(found), f"{folder}.{name} has no docstring"
        assert found.__module__.startswith(f"steerlab.{folder}."), name
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="nothing_such"):
        package.nothing_such  # noqa: B018


#: What an annotation says of an array, and how docstrings write a shape: (N, 2), (B,), (*shape), "scalar".
ARRAY = re.compile(r"NDArray|ndarray|Tensor|ArrayLike|Float64")
SHAPE = re.compile(r"\(\*?[A-Z0-9]\w*[,)]|\(\.\.\.,|\(\*shape|shape")


def described(package: ModuleType) -> Iterator[tuple[str, object, inspect.Signature]]:
    """The public functions of a subpackage and the methods of its public classes."""
    for name in package.__all__:
        found = getattr(package, name)
        if not inspect.isclass(found):
            yield name, found, inspect.signature(found)
        elif not issubclass(found, Exception):
            yield name, found, inspect.signature(found.__init__)
            for key, method in vars(found).items():
                if inspect.isfunction(method) and not key.startswith("_"):
                    yield f"{name}.{key}", method, inspect.signature(method)


@pytest.mark.parametrize("folder", PACKAGES)
def test_docstrings_give_shapes_of_arrays(folder: str) -> None:
    bare, arrays = [], 0
    for name, found, signature in described(importlib.import_module(f"steerlab.{folder}")):
        kinds = [str(a.annotation) for a in signature.parameters.values()]
        if ARRAY.search(" ".join([*kinds, str(signature.return_annotation)])):
            arrays += 1
            if not SHAPE.search(inspect.getdoc(found) or ""):
                bare.append(name)
    assert arrays > 0
    assert bare == []


def test_packages_import_lazily() -> None:
    names = ", ".join(f"steerlab.{folder}" for folder in PACKAGES)
    code = (
        f"import sys, {names}; print([m for m in ('torch', 'onnx', 'numba') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
