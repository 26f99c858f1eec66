"""Transactions, locks and what is left by a stopped process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from steerlab.errors import InputError
from steerlab.files import (
    HIDDEN,
    Transaction,
    atomic_path,
    exclusive_text,
    owned_folder,
    transaction,
    watch_changes,
    writable_folder,
    write_json,
)


class Stop(BaseException):
    pass


def write(folder: Path, word: str, stop_at: int = 0) -> int:
    """Replace a and b and remove c together; stop at a moment; return how many there are."""
    moments = 0

    def stop(when: str, path: Path) -> None:
        nonlocal moments
        moments += 1
        if moments == stop_at:
            raise Stop

    with watch_changes(stop), transaction(folder) as files:
        files.path("a.txt").write_text(word)
        files.path("b.txt").write_text(word)
        files.remove("c.txt")
    return moments


def visible(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.iterdir() if p.is_file()}


OLD, NEW = {"a.txt": "old", "b.txt": "old", "c.txt": "c"}, {"a.txt": "new", "b.txt": "new"}


def test_a_transaction_is_whole_or_absent_wherever_it_stops(tmp_path: Path) -> None:
    seen = set()
    for stop_at in range(1, 9):
        folder = tmp_path / str(stop_at)
        folder.mkdir()
        for name, text in OLD.items():
            (folder / name).write_text(text)
        with pytest.raises(Stop):
            write(folder, "new", stop_at)
        with owned_folder(folder):
            found = visible(folder)
        assert found in (OLD, NEW), stop_at
        seen.add(found == NEW)
        assert not [p for p in (folder / HIDDEN).iterdir() if p.is_dir()]
    assert seen == {True, False}
    assert write(tmp_path / "1", "new") == 8  # note, a, b, c: before and after


def test_nothing_unfinished_matches_a_pattern(tmp_path: Path) -> None:
    def half(files: Transaction) -> None:
        files.path("00000.csv").write_text("half")
        assert not list(tmp_path.glob("*.csv"))
        raise Stop

    with pytest.raises(Stop), transaction(tmp_path) as files:
        half(files)
    assert not list(tmp_path.iterdir())


def test_two_owners(tmp_path: Path) -> None:
    other = "import sys; from steerlab.files import owned_folder\n"
    other += "with owned_folder(sys.argv[1]): print('mine', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", other, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"mine\n"
        with pytest.raises(InputError) as refused, owned_folder(tmp_path):
            pass
        assert f"in use by process {process.pid} on {os.uname().nodename}" in str(refused.value)
        process.kill()
    with owned_folder(tmp_path), owned_folder(tmp_path):  # a killed owner owns nothing
        pass


def test_a_folder_that_vanished_is_not_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "out"

    def work() -> None:
        with atomic_path(folder / "a") as temporary:
            temporary.write_text("a")
        shutil.rmtree(folder)
        for use in (writable_folder, lambda f: atomic_path(f / "b").__enter__()):
            with pytest.raises(InputError, match="removed or replaced during the run"):
                use(folder)
        folder.mkdir()
        with pytest.raises(InputError, match="removed or replaced during the run"):
            writable_folder(folder / "inside")

    # In the end it is told to those, too, who wrote nothing after it had vanished.
    with pytest.raises(InputError, match="removed or replaced"), owned_folder(folder):
        work()
    with owned_folder(folder):  # a later run may use the place
        pass
    with pytest.raises(InputError, match="No such file"), atomic_path(tmp_path / "no" / "a"):
        pass


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", ""])
def test_a_note_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    workspace = tmp_path / "out" / HIDDEN / "x"
    workspace.mkdir(parents=True)
    (workspace / "0").write_text("evil")
    (workspace / "commit.json").write_text(json.dumps({"moves": {"0": name}, "removals": []}))
    with pytest.raises(InputError, match=r"commit.json.*delete it"), owned_folder(tmp_path / "out"):
        pass
    assert not (tmp_path / "evil").exists()


def test_exclusive_text(tmp_path: Path) -> None:
    assert exclusive_text(tmp_path / "a", "first")
    assert not exclusive_text(tmp_path / "a", "second")
    assert visible(tmp_path) == {"a": "first"}


def test_what_is_hidden_in_the_hidden_folder_is_settled_too(tmp_path: Path) -> None:
    (tmp_path / HIDDEN / HIDDEN / "unfinished").mkdir(parents=True)
    with owned_folder(tmp_path):
        assert not (tmp_path / HIDDEN / HIDDEN).exists()


def test_json_says_what_is_not_finite_as_null(tmp_path: Path) -> None:
    values = {"a": np.float32(0.5), 1: [float("nan"), np.int64(3), True, None], "b": (np.inf, "x")}
    write_json(tmp_path / "found.json", values)
    text = (tmp_path / "found.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": 0.5, "1": [None, 3, True, None], "b": [None, "x"]}
