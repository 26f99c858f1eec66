"""From many logs to a folder of segments: in parallel, resumable, numbered the same every time.

Layout of the folder::

    labels/<route>--NNNN.npz   the segments of one log and the report on it; what training reads
    NNNNN.csv                  the same segments in the public CSV format, numbered
    index.json                 route, minute, start and openpilot version of each number

A log whose label file exists is not read again. Numbers follow the order of route and minute, so
they depend on the set of logs alone, not on the number of workers or on interruptions.
"""

import json
import multiprocessing
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from steerlab.errors import InputError
from steerlab.files import atomic_path, writable_folder
from steerlab.surrogates.logs.extract import (
    ExtractOptions,
    ExtractReport,
    extract_log,
    load_labels,
    save_segments,
    write_csv,
)
from steerlab.surrogates.logs.reader import file_chunks, load_schema
from steerlab.surrogates.logs.routes import Fetcher, LogFile, local_copy

LABELS = "labels"
INDEX = "index.json"
_OPTIONS = "options.json"


@dataclass
class Extraction:
    """What :func:`extract_all` did.

    Attributes:
        logs: Logs that were looked at, those done earlier included.
        resumed: Logs done earlier.
        segments: Segments in the folder that belong to these logs.
        rows: Rows of the grid by what was wrong with them.
        problems: What was skipped and why, with the logs it happened to (at most 100 of them).
        problem_counts: How many logs had each kind of problem.
    """

    logs: int = 0
    resumed: int = 0
    segments: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[str, str]] = field(default_factory=list)
    problem_counts: Counter[str] = field(default_factory=Counter)

    def problem(self, log: str, what: str, kind: str | None = None) -> None:
        """Note what went wrong with a log."""
        self.problem_counts[kind or what] += 1
        if len(self.problems) < 100:
            self.problems.append((log, what))


def extract_all(
    logs: Iterable[LogFile],
    samples_path: str | Path,
    options: ExtractOptions,
    *,
    workers: int = 4,
    write_samples: bool = True,
    git_commits: tuple[str, ...] = (),
    schema: str | None = None,
    retries: int = 5,
    progress: Callable[[int], object] = lambda done: None,
) -> Extraction:
    """Extract the segments of ``logs`` into a folder.

    Args:
        logs: The logs; taken one by one, so they may be listed while others are being read.
        samples_path: The folder.
        options: What counts as a segment.
        workers: Processes that download and read.
        write_samples: Write the CSV files and the index as well as the labels.
        git_commits: Leave out logs recorded by other commits (prefixes).
        schema: Path of openpilot's log.capnp; None for our own.
        retries: Repetitions of a download.
        progress: Called with 1 for each log done.

    Raises:
        InputError: An option is out of range, the folder holds segments made with other options,
            or nothing could be extracted from anything.
    """
    options.check()
    if workers < 1:
        raise InputError(f"extract_workers={workers} must be at least 1")
    load_schema(schema)
    folder = writable_folder(samples_path)
    writable_folder(folder / LABELS)
    _same_options(folder, options, git_commits)
    result = Extraction()
    done: list[LogFile] = []
    job = _Job(str(folder), options, git_commits, schema, retries)
    for log, resumed, error in _run(job, logs, workers):
        result.logs += 1
        result.resumed += resumed
        progress(1)
        if error:
            result.problem(log.key, error, "unreadable")
        else:
            done.append(log)
    _number(sorted(set(done)), folder, write_samples, result)
    return result


@dataclass(frozen=True)
class _Job:
    folder: str
    options: ExtractOptions
    git_commits: tuple[str, ...]
    schema: str | None
    retries: int

    def labels(self, log: LogFile) -> Path:
        return Path(self.folder, LABELS, f"{log.key}.npz")


def _run(job: _Job, logs: Iterable[LogFile], workers: int) -> Iterator[tuple[LogFile, bool, str]]:
    """Yield each log with whether it was done before and what went wrong."""
    fresh = (log for log in logs)
    if workers == 1:
        for log in fresh:
            known = job.labels(log).exists()
            yield log, known, "" if known else _extract_one(job, log)
        return
    # Spawned: a fork of a process with threads may hang. Only a few logs are handed out ahead, so
    # memory does not grow with their number, and listing goes on while others are read.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context) as pool:
        waiting: deque[tuple[LogFile, Future[str]]] = deque()
        try:
            for log in fresh:
                if job.labels(log).exists():
                    yield log, True, ""
                    continue
                waiting.append((log, pool.submit(_extract_one, job, log)))
                while len(waiting) > 4 * workers:
                    first, future = waiting.popleft()
                    yield first, False, future.result()
            for first, future in waiting:
                yield first, False, future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _extract_one(job: _Job, log: LogFile) -> str:
    """Extract one log into its label file; return what went wrong, or nothing."""
    report = ExtractReport()
    try:
        with local_copy(log.place, Fetcher(job.retries)) as path:
            segments = list(
                extract_log(file_chunks(path), job.options, report, load_schema(job.schema))
            )
    except InputError as error:
        return str(error)
    commit = str(report.init.get("gitCommit", ""))
    if job.git_commits and not any(commit.startswith(c) for c in job.git_commits):
        report.skipped[f"recorded by another commit ({commit[:10] or 'unknown'})"] += 1
        segments = []
    save_segments(job.labels(log), segments, report)
    return ""


def _number(logs: list[LogFile], folder: Path, write_samples: bool, result: Extraction) -> None:
    """Count the segments of ``logs`` and, where wanted, write them under their numbers."""
    index: list[dict[str, Any]] = []
    name = "labels/{}.npz"
    for log in logs:
        tables, meta = load_labels(folder / LABELS / f"{log.key}.npz")
        report = meta["report"]
        result.rows.update(report["rows"])
        if report["damage"]:
            result.problem(log.key, report["damage"], "damaged")
        for what, count in report["skipped"].items():
            result.problem(log.key, f"{what} ({count}x)" if count > 1 else what, what)
        for kind in ("unknown_messages", "malformed_messages"):
            if report[kind]:
                result.problem(log.key, f"{report[kind]} {kind}", kind)
        for place, (table, segment) in enumerate(zip(tables, meta["segments"], strict=True)):
            number = f"{len(index):05d}"
            if write_samples:
                write_csv(folder / f"{number}.csv", table)
            minute, start = divmod(segment["start"], 60.0)
            index.append(
                {
                    "id": number,
                    "route": log.route,
                    "minute": log.number + int(minute),
                    "labels": name.format(log.key),
                    "place": place,
                    **segment,
                    "start": round(start, 3),
                    "openpilot": report["openpilot"].get("version", ""),
                    "git_commit": report["openpilot"].get("gitCommit", ""),
                }
            )
    result.segments = len(index)
    if write_samples:
        for stale in folder.glob("[0-9]*.csv"):
            if stale.stem.isdigit() and int(stale.stem) >= len(index):
                stale.unlink()  # from a run over more logs
    with atomic_path(folder / INDEX) as temporary:
        temporary.write_text(json.dumps(index, indent=1), encoding="utf-8")


def _same_options(folder: Path, options: ExtractOptions, git_commits: tuple[str, ...]) -> None:
    """Hold the options against those of what is in the folder already."""
    wanted = asdict(options) | {"git_commits": sorted(git_commits)}
    path = folder / _OPTIONS
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        different = [
            f"{k}={wanted[k]} (was {found.get(k)})" for k in wanted if wanted[k] != found.get(k)
        ]
        if different:
            raise InputError(
                f"samples_path={str(folder)!r} holds segments made with other options: "
                f"{', '.join(different)}; repeat those, or choose another folder"
            )
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
