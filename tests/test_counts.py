"""The tables of the exhaustive suites."""

from pathlib import Path
from typing import Any

import pytest

from tests import counts


def test_counts_are_added_and_peaks_are_not() -> None:
    rows: list[dict[str, float]] = [{"kills": 6, "most MB": 200.0}, {"kills": 4, "most MB": 300.5}]
    assert counts.totals([*rows, {"lost": 0}]) == {"kills": 10, "most MB": 300.5, "lost": 0}


def test_a_table_has_a_row_for_each_name_and_one_for_all(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows: Any = [("kills", "a", {"kills": 1}), ("kills", "b", {"kills": 2}),
                 ("kills", "a", {"kills": 3, "lost": 1})]  # fmt: skip
    monkeypatch.setattr(counts, "_failed", rows)
    monkeypatch.setattr(counts, "_folder", lambda config: tmp_path)
    lines = [line.split() for line in counts.tables(pytestconfig)]
    assert lines == [["kills"], ["kills", "lost"], ["a", "4", "1"], ["b", "2"], ["all", "6", "1"]]
