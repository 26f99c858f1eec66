"""Thousands of damaged files: each is read, or refused by name, soon, in little memory, harmlessly."""

import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steerlab.errors import InputError
from tests.clean_fork import ended, fork
from tests.counts import Tally
from tests.fuzz.mutations import mutated
from tests.fuzz.readers import Reader, readers

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork server")
MANY, FEW, SAMPLE = 5000, 500, 25
SECONDS, MEGABYTES = 20, 1000
Change = Callable[[bytes, random.Random], bytes]


@pytest.fixture(scope="module", name="readers")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    pytest.importorskip("capnp")
    return readers(tmp_path_factory.mktemp("samples"))


NAMES = (
    "checkpoint", "plans", "plans, foreign", "pairs", "labels", "sequences", "segment",
    "segments, zip", "routes to fetch", "log", "log, bz2", "log, zst", "metadata, protocol 2",
    "metadata, protocol 5", "yaml", "json", "log of a run", "tokenizer", "tokenizer, foreign",
    "plant", "plant, foreign", "network", "weights, foreign", "vocabulary, foreign",
)  # fmt: skip


def attack(
    reader: Reader, count: int, folder: Path, seed: str, change: Change = mutated
) -> dict[str, Any]:
    """Read ``count`` damaged files in a process; return what went wrong, and counts."""
    folder.mkdir()
    status = ended(fork(_attack, reader, count, folder, seed, change), 3600)
    note = folder / "note.json"
    found: dict[str, Any] = json.loads(note.read_text()) if note.exists() else {"wrong": []}
    if status:
        found["wrong"].append(f"unnamed: exit status {status}, at {sorted(folder.iterdir())}")
    return found


def _attack(reader: Reader, count: int, folder: Path, seed: str, change: Change) -> None:
    rng, place = random.Random(seed), folder / "in"
    place.mkdir()
    path = place / reader.name
    wrong: list[str] = []
    refused = 0
    slowest = 0.0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen"):
            if "_graph_trial.py" not in str(arguments):
                wrong.append(f"execution: {arguments}")
        elif event == "open" and isinstance(arguments[0], str):
            writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            inside = os.path.realpath(arguments[0]).startswith((str(folder.resolve()), "/dev/"))
            if writes and not inside:
                wrong.append(f"escape: {arguments[0]}")

    def too_slow(number: int, frame: Any) -> None:
        raise TimeoutError

    sys.addaudithook(watch)
    signal.signal(signal.SIGALRM, too_slow)
    for index in range(count):
        data = change(reader.sample, rng)
        path.write_bytes(data)
        began = time.monotonic()
        signal.alarm(SECONDS)
        try:
            reader.read(path)
        except InputError:
            refused += 1
        except BaseException as error:  # noqa: BLE001 - that is what is looked for
            (folder / f"failed-{index}").write_bytes(data)
            last = traceback.format_exc().strip().splitlines()[-4:]
            kind = "hang" if isinstance(error, TimeoutError) else "unnamed"
            wrong.append(f"{kind}: {index}: {type(error).__name__}: {' | '.join(last)}")
        finally:
            signal.alarm(0)
        slowest = max(slowest, time.monotonic() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    peak = max(peak, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
    if peak > MEGABYTES:
        wrong.append(f"memory: {peak:.0f} MB")
    note = {"wrong": wrong, "refused": refused, "s": slowest, "MB": peak}
    (folder / "note.json").write_text(json.dumps(note))


@pytest.mark.parametrize("name", [n for n in NAMES if "plant" not in n and n != "network"])
def test_a_sample_of_damaged_files(readers: dict[str, Reader], name: str, tmp_path: Path) -> None:
    assert not attack(readers[name], SAMPLE, tmp_path / "run", "sample")["wrong"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_damaged_files(readers: dict[str, Reader], name: str, tmp_path: Path, tally: Tally) -> None:
    count = FEW if readers[name].slow else MANY
    found = attack(readers[name], count, tmp_path / "run", name)
    kinds = Counter(text.partition(":")[0] for text in found["wrong"])
    tally(
        "fuzz", name, inputs=count, refused=found.get("refused", 0), unnamed=kinds["unnamed"],
        hangs=kinds["hang"], executions=kinds["execution"], escapes=kinds["escape"],
        **{f"most {k}": round(found.get(k, 0), 1) for k in ("s", "MB")},
    )  # fmt: skip
    assert not found["wrong"], "\n".join(found["wrong"][:20])


@pytest.mark.parametrize("name", NAMES)
def test_every_reader_reads_its_sample(
    readers: dict[str, Reader], name: str, tmp_path: Path
) -> None:
    assert set(readers) == set(NAMES)
    reader = readers[name]
    found = attack(reader, 1, tmp_path / "run", "", lambda data, rng: data)
    assert not found["wrong"]
    assert found["refused"] == 0
