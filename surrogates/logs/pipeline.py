"""From many logs to a folder of segments: in parallel, resumable, numbered the same every time.

Layout of the folder::

    labels/<route>--NNNN.npz   the segments of one log and the report on it; what training reads
    NNNNN.csv                  the same segments in the public CSV format, numbered
    index.json                 route, minute, start and openpilot version of each number

A log whose label file exists is not read again. Numbers follow the order of route and minute, so
they depend on the set of logs alone, not on the number of processes or on interruptions. Route and
minute are found by ``identity.py``, which also finds logs that are there twice.
"""

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from steerlab.errors import InputError
from steerlab.files import Transaction, atomic_path, owned_folder, transaction, writable_folder
from steerlab.processes import worker_pool
from steerlab.readers.text import read_json
from steerlab.surrogates.logs.extract import (
    ExtractOptions,
    ExtractReport,
    extract_log,
    load_labels,
    save_segments,
    write_csv,
)
from steerlab.surrogates.logs.identity import Labelled, identify
from steerlab.surrogates.logs.reader import file_chunks, load_schema
from steerlab.surrogates.logs.routes import Fetcher, LogFile, local_copy
from steerlab.surrogates.segments.data import INDEX

LABELS = "labels"
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
    processes: int = 4,
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
        processes: Processes that download and read.
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
    if processes < 1:
        raise InputError(f"processes={processes} must be at least 1")
    load_schema(schema)
    folder = Path(samples_path)
    result = Extraction()
    done: list[LogFile] = []
    job = _Job(str(folder), options, git_commits, schema, retries)
    with owned_folder(folder):
        writable_folder(folder / LABELS)
        _same_options(folder, options, git_commits)
        with closing(_run(job, _with_own_names(job, logs), processes)) as results:
            for log, resumed, error in results:
                result.logs += 1
                result.resumed += resumed
                progress(1)
                if error:
                    result.problem(log.key, error, "unreadable")
                else:
                    done.append(log)
        _number([log.key for log in done], folder, write_samples, result)
    return result


def load_identified(
    folder: str | Path, keys: Iterable[str] | None = None
) -> tuple[list[Labelled], list[tuple[str, str]]]:
    """Return what was extracted, with routes and minutes, and what was left out as a copy.

    Args:
        folder: ``samples_path`` of the extraction.
        keys: Names of the label files; all by default.

    Raises:
        InputError: A label file is damaged.
    """
    labels = Path(folder, LABELS)
    if keys is None:
        keys = [path.stem for path in labels.glob("*.npz")]
    paths = {key: labels / f"{key}.npz" for key in sorted(set(keys))}
    return identify([Labelled(key, *load_labels(path)) for key, path in paths.items()])


def _with_own_names(job: "_Job", logs: Iterable[LogFile]) -> Iterator[LogFile]:
    """Yield each log once, and mark those whose name is taken by another place."""
    taken: dict[str, str] = {}  # places by name
    for log in logs:
        if log.address in taken.values():
            continue  # named twice
        for candidate in (log, replace(log, copy=True)):
            free = candidate.key not in taken
            if free and not _belongs_to_another(job.labels(candidate), log):
                taken[candidate.key] = log.address
                yield candidate
                break


def _belongs_to_another(labels: Path, log: LogFile) -> bool:
    """Return whether a label file was made of another log: another place and other contents."""
    if not labels.exists():
        return False
    known = load_labels(labels)[1].get("log", {})
    if known.get("address", log.address) == log.address or not Path(log.address).is_file():
        return False
    return bool(known.get("sha256") != file_hash(log.address))


@dataclass(frozen=True)
class _Job:
    folder: str
    options: ExtractOptions
    git_commits: tuple[str, ...]
    schema: str | None
    retries: int

    def labels(self, log: LogFile) -> Path:
        return Path(self.folder, LABELS, f"{log.key}.npz")


def _run(
    job: _Job, logs: Iterable[LogFile], processes: int
) -> Generator[tuple[LogFile, bool, str], None, None]:
    """Yield each log with whether it was done before and what went wrong."""
    fresh = (log for log in logs)
    if processes == 1:
        for log in fresh:
            known = job.labels(log).exists()
            yield log, known, "" if known else _extract_one(job, log)
        return
    # Only a few logs are handed out ahead, so memory does not grow with their number, and listing goes
    # on while others are read.
    with worker_pool(processes) as pool:
        waiting: deque[tuple[LogFile, Future[str]]] = deque()
        for log in fresh:
            if job.labels(log).exists():
                yield log, True, ""
                continue
            waiting.append((log, pool.submit(_extract_one, job, log)))
            while len(waiting) > 4 * processes:
                first, future = waiting.popleft()
                yield first, False, future.result()
        for first, future in waiting:
            yield first, False, future.result()


def _extract_one(job: _Job, log: LogFile) -> str:
    """Extract one log into its label file; return what went wrong, or nothing."""
    report = ExtractReport()
    try:
        with local_copy(log.place, Fetcher(job.retries)) as path:
            sha256 = file_hash(path)
            segments = list(
                extract_log(file_chunks(path), job.options, report, load_schema(job.schema))
            )
    except InputError as error:
        return str(error)
    commit = str(report.init.get("gitCommit", ""))
    if job.git_commits and not any(commit.startswith(c) for c in job.git_commits):
        report.skipped[f"recorded by another commit ({commit[:10] or 'unknown'})"] += 1
        segments = []
    told = {
        name: getattr(log, name) for name in ("route", "number", "named", "numbered", "address")
    }
    save_segments(job.labels(log), segments, report, told | {"sha256": sha256})
    return ""


def file_hash(path: str | Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        InputError: The file cannot be read.
    """
    digest = hashlib.sha256()
    for chunk in file_chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


def _number(keys: list[str], folder: Path, write_samples: bool, result: Extraction) -> None:
    """Count the segments of some logs and, where wanted, write them under their numbers, together."""
    with transaction(folder) as files:
        index = _write_numbered(keys, folder, files if write_samples else None, result)
        if write_samples:
            for stale in folder.glob("[0-9]*.csv"):
                if stale.stem.isdigit() and int(stale.stem) >= len(index):
                    files.remove(stale.name)  # from a run over more logs
        files.path(INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")


def _write_numbered(
    keys: list[str], folder: Path, files: Transaction | None, result: Extraction
) -> list[dict[str, Any]]:
    """Write the segments of logs as CSV, if there is a transaction for that; return the index."""
    index: list[dict[str, Any]] = []
    name = "labels/{}.npz"
    logs, copies = load_identified(folder, keys)
    for key, reason in copies:
        result.problem(key, reason, "left out: there twice")
    for log in logs:
        meta = log.meta
        report = meta["report"]
        result.rows.update(report["rows"])
        if report["damage"]:
            result.problem(log.key, report["damage"], "damaged")
        for what, count in report["skipped"].items():
            result.problem(log.key, f"{what} ({count}x)" if count > 1 else what, what)
        for kind in ("unknown_messages", "malformed_messages"):
            if report[kind]:
                result.problem(log.key, f"{report[kind]} {kind}", kind)
        for place, (table, segment) in enumerate(zip(log.tables, meta["segments"], strict=True)):
            number, written = f"{len(index):05d}", {}
            if files:
                path = files.path(f"{number}.csv")
                write_csv(path, table)
                written = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            minute, start = divmod(segment["start"], 60.0)
            index.append(
                {
                    "id": number,
                    "route": log.route,
                    "minute": log.minute + int(minute),
                    "labels": name.format(log.key),
                    "place": place,
                    **segment,
                    "start": round(start, 3),
                    "openpilot": report["openpilot"].get("version", ""),
                    "git_commit": report["openpilot"].get("gitCommit", ""),
                    **written,
                }
            )
    result.segments = len(index)
    return index


def _same_options(folder: Path, options: ExtractOptions, git_commits: tuple[str, ...]) -> None:
    """Hold the options against those of what is in the folder already."""
    wanted = asdict(options) | {"git_commits": sorted(git_commits)}
    path = folder / _OPTIONS
    if path.exists():
        found = read_json(path, dict)
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
