"""The five root folders are the package, and each room imports only the rooms below it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("surrogates", "envs", "agents", "exporters", "experiments")
ABOVE = {room: set(FLOORS[i + 1 :]) for i, room in enumerate(FLOORS)}


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


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        rooms |= {n.split(".")[1] for n in names if n.startswith("steerlab.")}
    return rooms


@pytest.mark.parametrize("folder", ABOVE)
def test_no_import_runs_up(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert not imported_rooms(path) & ABOVE[folder], path


def test_ground_knows_no_room() -> None:
    ground = [*(ROOT / "steerlab").glob("*.py"), *(ROOT / "steerlab" / "openpilot").rglob("*.py")]
    for path in ground:
        allowed = {"__init__.py": {"envs"}, "__main__.py": {"experiments"}}.get(path.name, set())
        assert not imported_rooms(path) & (set(FLOORS) - allowed), path


def test_import_is_light() -> None:
    code = "import sys, steerlab; print([m for m in ('torch', 'onnxruntime', 'matplotlib') if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"
