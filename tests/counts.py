"""What the exhaustive tests count: kept once they pass, and printed as tables at the end.

Counts travel with the report of a test, so that they arrive from the processes of pytest-xdist, too.
A test that passed is not run again until a source file changes; its counts are printed again.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("agents", "envs", "experiments", "exporters", "steerlab", "surrogates", "tests")
#: A part of the suites, what was tried in it, and the counts by name.
Row = tuple[str, str, dict[str, float]]
Tally = Callable[..., None]
_PROPERTY = "counts"
_failed: list[Row] = []


def note(item: pytest.Item, part: str, what: str, counts: dict[str, float]) -> None:
    """Add a row to the report of a test."""
    item.user_properties.append((_PROPERTY, (part, what, counts)))


def keep(report: pytest.TestReport, config: pytest.Config) -> None:
    """Keep the rows of a test that passed, so that it is not run again."""
    if report.passed:
        _file(report.nodeid, config).write_text(json.dumps(_rows(report)), encoding="utf-8")


def done(nodeid: str, config: pytest.Config) -> bool:
    """Tell whether a test passed with the same sources."""
    return _file(nodeid, config).exists()


def take(report: pytest.TestReport) -> None:
    """Take the rows of a test that failed."""
    _failed.extend(_rows(report) if report.failed else [])


def tables(config: pytest.Config) -> Iterable[str]:
    """Yield a table for each part, of all that was tried with the same sources, the totals last."""
    kept = [json.loads(path.read_text()) for path in sorted(_folder(config).iterdir())]
    found: list[Row] = [*_failed, *(row for rows in kept for row in rows)]
    for part in sorted({row[0] for row in found}):
        rows = [(what, counts) for p, what, counts in found if p == part]
        names = list(dict.fromkeys(name for _, counts in rows for name in counts))
        yield f"\n{part}"
        yield _line("", names)
        for what in [*sorted({what for what, _ in rows}), "all"]:
            total = totals([counts for w, counts in rows if what in ("all", w)])
            yield _line(what, [_shown(total.get(name)) for name in names])


def _rows(report: pytest.TestReport) -> list[Row]:
    found: list[Any] = [value for name, value in report.user_properties if name == _PROPERTY]
    return found


def _folder(config: pytest.Config) -> Path:
    assert config.cache
    folder = config.cache.mkdir("exhaustive") / _sources()
    folder.mkdir(exist_ok=True)
    return folder


def _file(nodeid: str, config: pytest.Config) -> Path:
    return _folder(config) / f"{hashlib.sha256(nodeid.encode()).hexdigest()[:16]}.json"


def totals(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the sums of counts, of those named "most ..." the largest."""
    found: dict[str, float] = {}
    for name, value in (item for row in rows for item in row.items()):
        join = max if name.startswith("most") else sum
        found[name] = join((found.get(name, 0), value))
    return found


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}"


def _line(first: str, cells: Iterable[str]) -> str:
    return f"{first:30}" + "".join(f"{cell:>{max(12, len(cell) + 2)}}" for cell in cells)


@cache
def _sources() -> str:
    """Return a hash of all source files."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("**/*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
