"""Run a study in a fork of a clean process, stop it somewhere, and hold its results to others."""

import hashlib
import importlib
import json
import math
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steerlab.agents.checkpoint import load_checkpoint
from steerlab.files import HIDDEN, watch_changes
from steerlab.readers.arrays import read_arrays
from tests import clean_fork
from tests.clean_fork import fork

#: Names of values that tell the time, and of arrays that say how old they are.
TIMED = re.compile(r"seconds|fps|time_elapsed|latency|_us$|minutes|^t$|checksum|^date$")
STARTED = re.compile(r"_\d{8}_\d{4}(_\d+)?(?=\.)")  # in a name: when a run began
LONG = 600.0  # s after which a run counts as hung


def start(
    study: str, arguments: list[str], folder: Path, hook: Callable[[str, Path], None] | None = None
) -> int:
    """Run the study in ``folder``, in a process and session of its own. Return its number."""
    folder.mkdir(parents=True, exist_ok=True)
    return fork(_run, study, arguments, folder, hook)


def _run(
    study: str, arguments: list[str], folder: Path, hook: Callable[[str, Path], None] | None
) -> None:
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        remember_graphs(folder.parent / "graphs" / study)
        main = importlib.import_module(f"steerlab.experiments.{study}").main
        with watch_changes(hook or (lambda when, path: None)):
            main(arguments)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
        if code == 1:
            print(stop.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - the parent reads the log
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def remember_graphs(folder: Path) -> None:
    """Let torch export a network with the same weights only once; it takes ten times a small training."""
    export = torch.onnx.export

    def remembered(
        model: torch.nn.Module, args: tuple[Any, ...], path: str, **options: Any
    ) -> None:
        digest = hashlib.sha256(repr((model, options)).encode())
        for tensor in (*model.parameters(), *model.buffers(), *args):
            digest.update(str((tensor.dtype, tensor.shape)).encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        known = folder / f"{digest.hexdigest()}.onnx"
        if not known.exists():
            export(model, args, path, **options)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / f"{os.getpid()}.part")
            (folder / f"{os.getpid()}.part").replace(known)
        shutil.copy(known, path)

    torch.onnx.export = remembered  # type: ignore[assignment]


def ended(pid: int) -> int:
    """Wait for a run; return its exit status, negative for a signal.

    Raises:
        TimeoutError: It hangs; it is killed.
    """
    return clean_fork.ended(pid, LONG)


def left_alive(session: int) -> list[int]:
    """Return the processes of a session that are alive."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def none_left(session: int, seconds: float = 5.0) -> bool:
    """Tell whether every process of a session has ended after that time."""
    end = time.monotonic() + seconds
    while left_alive(session):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def kill_at(moment: int) -> Callable[[str, Path], None]:
    """Return a hook that kills the process at a moment, from 1."""
    seen = 0

    def hook(when: str, path: Path) -> None:
        nonlocal seen
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def count_into(note: Path) -> Callable[[str, Path], None]:
    """Return a hook that writes to ``note`` how many moments there were."""
    seen = 0

    def hook(when: str, path: Path) -> None:
        nonlocal seen
        seen += 1
        note.write_text(str(seen))

    return hook


def results(folder: Path) -> dict[str, Any]:
    """Return what a study left in ``folder``, by name, without whatever tells the time."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = STARTED.sub("", str(path.relative_to(folder)))
        if path.is_dir() or HIDDEN in path.parts or "events.out.tfevents" in name:
            continue
        found[name] = _contents(path)
    return found


def _contents(path: Path) -> Any:
    if path.suffix in (".pt", ".pth"):
        return _untimed(load_checkpoint(path))
    if path.suffix == ".npz":
        return _untimed(read_arrays(path))
    if path.suffix == ".json":
        return _untimed(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [_untimed(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".txt":
        return [line for line in path.read_text().splitlines() if not TIMED.search(line)]
    if path.suffix in (".png", ".gif", ".html"):
        return path.stat().st_size > 0
    return path.read_bytes()


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _untimed(v) for k, v in value.items() if not TIMED.search(str(k))}
    if isinstance(value, list | tuple):
        return [_untimed(v) for v in value]
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    return value


def difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Return the names of the results that differ."""
    names = sorted(one.keys() | other.keys())
    return ", ".join(n for n in names if n not in one or n not in other or one[n] != other[n])
