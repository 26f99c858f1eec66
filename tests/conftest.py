"""Shared fixtures: one torch thread, and the real data when it is at hand."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

from tests import counts, type_checker
from tests.clean_fork import used_seconds
from tests.counts import ROOT, Tally

#: Modules whose signatures give shapes (``steerlab.types``); beartype checks every call in the tests.
SHAPED = (
    "steerlab.agents.classical.sqp",
    "steerlab.agents.classical.tracking",
    "steerlab.agents.trc.evaluate",
    "steerlab.envs.tracking.problem",
)
install_import_hook(SHAPED, f"{type_checker.__name__}.check")


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
        wanted = config.getoption("--exhaustive") and (not name or f"[{name}]" in item.name)
        if not wanted or counts.done(item.nodeid, config):
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Print counts of an exhaustive test at the end: the part of the suites, what was tried, numbers."""
    began = used_seconds()

    def add(part: str, what: str, **numbers: float) -> None:
        nonlocal began
        now = used_seconds()
        counts.note(request.node, part, what, numbers | {"CPU s": round(now - began, 1)})
        began = now

    return add


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the counts of exhaustive tests, in this process or in that of pytest-xdist."""
    report = yield
    if report.when == "call" and item.get_closest_marker("exhaustive"):
        counts.keep(report, item.config)
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Take the counts of tests that failed, in pytest-xdist's processes, too."""
    if report.when == "call":
        counts.take(report)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Print the counts of the exhaustive tests."""
    if config.getoption("--exhaustive"):
        for line in counts.tables(config):
            terminalreporter.write_line(line)
