"""Measure throughput and memory of log extraction.

Writes zstandard-compressed logs of one minute each, with the message rates of an rlog (car messages at
100 Hz among other traffic) and of a qlog. Extracts them with 1, 2, ... processes, and measures
the peak memory of a process that extracts few and many of them. With `logs=` it uses your own logs.

Example:
  steerlab benchmark-extraction
"""

import multiprocessing
import resource
import shutil
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from steerlab.errors import InputError
from steerlab.options import option
from steerlab.study import study
from steerlab.surrogates.logs.extract import ExtractOptions
from steerlab.surrogates.logs.pipeline import extract_all
from steerlab.surrogates.logs.reader import load_schema, zstandard
from steerlab.surrogates.logs.routes import LogFile, find_logs


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    logs: str | None = option(None, "folder of logs; none = logs that the study writes")
    minutes: int = option(24, "minutes of log that are extracted")
    processes: tuple[int, ...] = option((1, 2), "numbers of processes to try")
    many: int = option(8, "how many times more logs the memory is measured with")


def run(config: Config, output: Path | None) -> dict[str, float]:
    """Measure and print."""
    if config.minutes < 2 or config.many < 2 or min(config.processes) < 1:
        raise InputError("minutes and many must be at least 2, processes at least 1")
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="steerlab-") as name:
        folder = Path(name)
        if config.logs:
            sets = {"yours": list(find_logs([config.logs]))[: config.minutes]}
        else:
            sets = {kind: _write(folder / kind, kind, config.minutes) for kind in ("rlog", "qlog")}
        table = Table("log", "MB a minute", *(f"{w} worker(s)" for w in config.processes),
                      title="minutes of log a second, in all and a worker")  # fmt: skip
        for kind, logs in sets.items():
            size = sum(Path(log.place).stat().st_size for log in logs) / len(logs) / 1e6
            cells = []
            for workers in config.processes:
                out = folder / "out"
                # Processes take a second to start: that is measured apart and taken off.
                idle = _timed(logs[:1] * 1, out, workers) if workers > 1 else 0.0
                seconds = _timed(logs, out, workers) - idle
                rate = (len(logs) - (workers > 1)) / seconds
                figures[f"{kind}, {workers} workers, minutes/s"] = rate
                cells.append(f"{rate:.1f} ({rate / workers:.1f})")
            table.add_row(kind, f"{size:.2f}", *cells)
        Console().print(table)
        kind, logs = next(iter(sets.items()))
        few, many = logs[:1], _copies(logs[0], config.many * len(logs), folder)
        for label, some in (("1 log", few), (f"{len(many)} logs", many)):
            figures[f"peak memory, {label}, MB"] = peak = _peak_memory(some, folder / "out")
            Console().print(f"peak memory of a worker over {label} ({kind}): {peak:.0f} MB")
    return figures


def _timed(logs: list[LogFile], out: Path, workers: int) -> float:
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    extract_all(logs, out, ExtractOptions(), processes=workers)
    return time.perf_counter() - start


def _peak_memory(logs: list[LogFile], out: Path) -> float:
    """Return the largest resident size (MB) of a fresh process that extracts ``logs``."""
    shutil.rmtree(out, ignore_errors=True)
    mine, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_measure, args=(logs, str(out), theirs)
    )
    process.start()
    peak = float(mine.recv())
    process.join()
    return peak


def _measure(logs: list[LogFile], out: str, answer: Connection) -> None:
    extract_all(logs, out, ExtractOptions(), processes=1)
    answer.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _copies(log: LogFile, count: int, folder: Path) -> list[LogFile]:
    """Return ``count`` logs at places of their own in ``folder``: one named twice is read once."""
    first = Path(log.place)
    places = [folder / f"{i:04d}_{first.name}" for i in range(count)]
    for place in places:
        shutil.copyfile(first, place)
    return [LogFile(f"route{i // 12}", i % 12, str(p)) for i, p in enumerate(places)]


def _write(folder: Path, kind: str, minutes: int) -> list[LogFile]:
    """Write one minute in the rates of a kind of log, under as many names as are wanted."""
    event = load_schema().event
    rng = np.random.default_rng(0)
    rate, traffic = (100, 6) if kind == "rlog" else (10, 2)
    noise = event.new_message()
    filler = noise.init("initData")
    filler.gitCommit = rng.bytes(300).hex()
    other = bytearray(noise.to_bytes())
    parts = []
    for step in range(60 * rate):
        time_ns = 10**12 + step * 10**9 // rate
        for name in ("carState", "carControl", "controlsState", "liveParameters"):
            if name == "liveParameters" and step % (rate // 10 * 2):
                continue
            message = event.new_message()
            message.logMonoTime = time_ns
            body = message.init(name)
            if name == "carState":
                body.vEgo, body.aEgo = 20 + rng.normal(), rng.normal()
            elif name == "carControl":
                body.latActive, body.actuators.torque = True, rng.normal()
            elif name == "controlsState":
                state = body.lateralControlState.init("torqueState")
                state.active, state.desiredLateralAccel = True, rng.normal()
            else:
                body.roll = rng.normal()
            parts.append(message.to_bytes())
        parts += [bytes(other)] * traffic
    # The traffic is given a tag that is not needed, as most of a log is.
    data = b"".join(parts).replace(bytes(other), _retagged(bytes(other)))
    folder.mkdir(parents=True)
    path = folder / f"{kind}.zst"
    path.write_bytes(zstandard().compress(data))
    return _copies(LogFile("", 0, str(path)), minutes, folder)


def _retagged(frame: bytes) -> bytes:
    """Return a message with the union tag of sendcan (16), which extraction skips."""
    return frame[:24] + (16).to_bytes(2, "little") + frame[26:]


main = study(Config, run, folder=False)

if __name__ == "__main__":
    main()
