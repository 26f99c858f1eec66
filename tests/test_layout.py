"""The five root folders are the package, and each imports only those of lower levels."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import grimp
import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).parents[1]
LEVELS = ("surrogates", "envs", "agents", "exporters", "experiments")
#: Longest function, docstring included, and those that may be longer, with the reason.
LINES = 60
LONG = {
    "envs/cameras/raster.py:cover": "a helper that takes arrays costs numba more than a triangle does",
    "envs/kinematic_driver/compiled.py:loops": "what numba compiles shares one closure",
    "envs/kinematic_driver/compiled.py:step": "the whole step in one compiled loop, row by row",
    "exporters/policy.py:export_policy": "a keyword for each of its files, and what each means",
}
ABOVE = {folder: set(LEVELS[i + 1 :]) for i, folder in enumerate(LEVELS)}


@pytest.mark.parametrize("folder", ABOVE)
def test_link(folder: str) -> None:
    link = ROOT / "steerlab" / folder
    if not link.is_dir():
        pytest.skip("this checkout has no symbolic links")
    assert link.resolve() == ROOT / folder


@pytest.mark.parametrize("folder", ABOVE)
def test_every_package_has_an_init(folder: str) -> None:
    bare = [p for p in (ROOT / folder).rglob("*.py") if not (p.parent / "__init__.py").exists()]
    assert not bare


def test_studies_hold_no_library() -> None:
    """What several studies share belongs to another folder; every file here is a study or the package."""
    for path in (ROOT / "experiments").glob("*.py"):
        if path.name != "__init__.py":
            assert not path.name.startswith("_"), path
            assert "main = study(" in path.read_text(encoding="utf-8"), path


def test_no_function_is_too_long() -> None:
    lengths: dict[str, int] = {}
    for path in (p for folder in ("steerlab", *LEVELS) for p in (ROOT / folder).rglob("*.py")):
        place = path.relative_to(ROOT)
        if len(place.parts) > 1 and place.parts[0] == "steerlab" and place.parts[1] in LEVELS:
            continue  # a link to one of the five
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno is not None
                name, length = f"{place.as_posix()}:{node.name}", node.end_lineno - node.lineno + 1
                lengths[name] = max(length, lengths.get(name, 0))
    assert len(lengths) > 1000
    assert {name: n for name, n in lengths.items() if n > LINES and name not in LONG} == {}
    assert {name for name in LONG if lengths.get(name, 0) <= LINES} == set(), "no longer needed"


def imported_subpackages(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {n.split(".")[1] for n in names if n.startswith("steerlab.")}
    return found


@pytest.mark.parametrize("folder", ABOVE)
def test_no_import_runs_up(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert not imported_subpackages(path) & ABOVE[folder], path


def test_level_0_imports_no_other() -> None:
    lowest = [*(ROOT / "steerlab").glob("*.py"), *(ROOT / "steerlab" / "openpilot").rglob("*.py")]
    for path in lowest:
        allowed = {"__init__.py": {"envs"}, "__main__.py": {"experiments"}}.get(path.name, set())
        assert not imported_subpackages(path) & (set(LEVELS) - allowed), path


def test_no_import_circle() -> None:
    graph = grimp.build_graph("steerlab", cache_dir=None)
    modules = sorted(graph.modules)
    place = {module: i for i, module in enumerate(modules)}
    imports = [
        (i, place[other])
        for i, module in enumerate(modules)
        for other in graph.find_modules_directly_imported_by(module)
    ]
    assert len(imports) > len(modules) > 100
    matrix = coo_array((np.ones(len(imports)), tuple(zip(*imports, strict=True))))
    matrix.resize(len(modules), len(modules))
    _, part = connected_components(matrix, connection="strong")
    circles = [np.flatnonzero(part == p) for p in np.flatnonzero(np.bincount(part) > 1)]
    assert not [[modules[i] for i in circle] for circle in circles]


def test_import_is_light() -> None:
    code = "import sys, steerlab; print([m for m in ('torch', 'onnxruntime', 'matplotlib') if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


def test_types_of_arrays_have_one_place() -> None:
    """No module gives a type of arrays a name of its own; ``steerlab/types.py`` does."""
    alias = re.compile(r"^[A-Z]\w+ = (NDArray\[|np\.ndarray\b|Any$)", re.MULTILINE)
    places = [path for folder in ("steerlab", *LEVELS) for path in (ROOT / folder).rglob("*.py")]
    own = [p.name for p in places if alias.search(p.read_text(encoding="utf-8"))]
    assert own == ["types.py"]
