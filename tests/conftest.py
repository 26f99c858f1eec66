"""Shared fixtures: one torch thread, and the real data when it is at hand."""

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

from tests import type_checker

#: Modules whose signatures give shapes (``steerlab.types``); beartype checks every call in the tests.
SHAPED = (
    "steerlab.agents.classical.sqp",
    "steerlab.agents.classical.tracking",
    "steerlab.agents.trc.evaluate",
    "steerlab.envs.tracking.problem",
)
install_import_hook(SHAPED, f"{type_checker.__name__}.check")

ROOT = Path(__file__).parents[1]
_counts: list[str] = []  # of the exhaustive tests


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real data that is not part of the project; tests that need it skip without it."""
    folder = Path(os.environ.get("STEERLAB_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real data: set STEERLAB_SHARED (looked in {folder})")
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--exhaustive",
        action="store_true",
        help="run the exhaustive suites, too (make reliability)",
    )
    parser.addoption(
        "--study", default="", help="of the exhaustive suites, only tests of this name"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the exhaustive tests out unless they are asked for, and those that are done already."""
    name, left_out = config.getoption("--study"), []
    for item in items:
        if item.get_closest_marker("exhaustive") is None:
            continue
        wanted = config.getoption("--exhaustive") and (not name or f"[{name}" in item.name)
        if not wanted or _done(config, item.nodeid):
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Callable[[str, int, int], None]:
    """Print a count of an exhaustive test; keep it, so that the same sources are not tried again."""

    def note(what: str, tried: int, wrong: int) -> None:
        line = f"{what}: {tried} tried, {wrong} wrong"
        _counts.append(line)
        cache = request.config.cache
        assert cache
        kept = cache.get(_key(request.node.nodeid), [])
        cache.set(_key(request.node.nodeid), [*kept, line] if not wrong else [])

    return note


def _key(nodeid: str) -> str:
    return f"exhaustive/{_sources()}/{hashlib.sha256(nodeid.encode()).hexdigest()[:16]}"


def _done(config: pytest.Config, nodeid: str) -> bool:
    lines = config.cache.get(_key(nodeid), []) if config.cache else []
    _counts.extend(f"{line} (before)" for line in lines)
    return bool(lines)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts of the exhaustive tests."""
    for line in _counts:
        terminalreporter.write_line(line)


@cache
def _sources() -> str:
    """Return a hash of all source files."""
    digest = hashlib.sha256()
    rooms = ("agents", "envs", "experiments", "exporters", "steerlab", "surrogates", "tests")
    for path in sorted(path for room in rooms for path in (ROOT / room).glob("**/*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
