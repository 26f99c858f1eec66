"""The table fits the sources: every text occurs once, and every test is there."""

from pathlib import Path

import pytest

from tests.mutations.table import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.file}:{m.old}")
def test_mutation_can_be_made(mutation: Mutation) -> None:
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1
    assert mutation.new not in ("", mutation.old)
    for tests in mutation.tests.split():
        assert (ROOT / tests).exists(), tests


def test_there_are_enough() -> None:
    assert len(set(MUTATIONS)) == len(MUTATIONS) >= 55
