"""Route segments in comma's CSV format, loaded once into arrays."""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import md5, sha256
from pathlib import Path, PurePosixPath

import numpy as np
import polars as pl
from numpy.typing import NDArray

from steerlab.errors import InputError, unknown_name
from steerlab.files import atomic_path
from steerlab.readers.archives import Archive, open_archive
from steerlab.readers.text import read_bytes, read_json

COLUMNS = ("t", "vEgo", "aEgo", "roll", "targetLateralAcceleration", "steerCommand")
DT = 0.1  # s between rows
LONGEST_HEADER = 1000  # bytes
#: How gzip, zstd and zlib begin: polars would unpack them, without a limit.
PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")
INDEX = "index.json"  # of a folder of extracted segments
GRAVITY = 9.81  # m/s^2, the value of the official simulator
CONTROL_START = 100  # first row that a controller steers; the logged steer ends before it
COST_END = 500  # first row after those that count
PLAN_STEPS = 49  # rows of the future that a controller is shown
MIN_ROWS = COST_END + PLAN_STEPS  # rows that can influence a cost


@dataclass(frozen=True)
class Segments:
    """S segments of up to T rows; shorter ones are padded with their last row.

    Signs: steer and lateral acceleration are positive to the right, so ``steer`` is minus the
    logged ``steerCommand``.

    Attributes:
        names: Route names, for example "00042".
        rows: (S,) rows each file has.
        target: (S, T) target lateral acceleration, m/s^2.
        roll_lataccel: (S, T) lateral acceleration from road roll, m/s^2.
        v_ego: (S, T) speed, m/s.
        a_ego: (S, T) acceleration, m/s^2.
        steer: (S, 100) steer logged before control starts, in [-2, 2] but not clipped.
    """

    names: tuple[str, ...]
    rows: NDArray[np.int64]
    target: NDArray[np.float64]
    roll_lataccel: NDArray[np.float64]
    v_ego: NDArray[np.float64]
    a_ego: NDArray[np.float64]
    steer: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: slice | Sequence[int] | NDArray[np.intp]) -> "Segments":
        """Return a part of the segments."""
        chosen = np.arange(len(self))[index]
        return Segments(
            tuple(self.names[i] for i in chosen),
            *(
                getattr(self, field)[chosen]
                for field in ("rows", "target", "roll_lataccel", "v_ego", "a_ego", "steer")
            ),
        )

    def index(self, name: str) -> int:
        """Return the position of a segment; "42" finds "00042".

        Raises:
            InputError: There is no such segment.
        """
        for candidate in (name, name.removesuffix(".csv"), name.zfill(5)):
            if candidate in self.names:
                return self.names.index(candidate)
        if len(self) > 20:
            raise InputError(
                f"unknown segment {name!r}; there are {len(self)}, "
                f"from {self.names[0]} to {self.names[-1]}"
            )
        raise unknown_name("segment", name, self.names)


def official_seed(name: str, salt: str = "") -> int:
    """Return the seed of the official simulator for a route.

    It hashes the path that comma's scripts use, ``data/NNNNN.csv``. A ``salt`` in front of the path
    gives other noise, for an evaluation that a controller cannot have been fitted to.
    """
    return int(md5(f"{salt}data/{name}.csv".encode()).hexdigest(), 16) % 10**4


def load_segments(
    source: str | Path, limit: int = 0, skipped: Callable[[InputError], object] | None = None
) -> Segments:
    """Load the segments of a folder or zip archive of CSV files, sorted by name.

    Args:
        source: Folder with ``*.csv``, zip archive of CSV files, or one CSV file.
        limit: Number of files to read, the first ones by name; 0 reads all.
        skipped: Leave out segments that are not valid, and call this with what is wrong with each.

    Raises:
        InputError: The source does not exist, holds no segment, or a segment is not valid; the
            message names the file, the column and the row.
    """
    source = Path(source)
    tables = []
    for name, data in _files(source, limit):
        try:
            tables.append(_read(name, data, source))
        except InputError as error:
            if skipped is None:
                raise
            skipped(error)
    if not tables:
        kind = "CSV file" if skipped is None else "valid segment"
        raise InputError(f"{str(source)!r} holds no {kind}; give a folder or zip of segments")
    names = [name for name, _ in tables]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(
            f"{str(source)!r} holds {len(twice)} names more than once, {twice[0]!r} for example; "
            "give one folder of it, or rename the files"
        )
    return stack_segments(names, [table for _, table in tables])


def stack_segments(names: Sequence[str], tables: Iterable[NDArray[np.float64]]) -> Segments:
    """Return segments from tables (rows, 6) with the columns of :data:`COLUMNS`."""
    tables = list(tables)
    longest = max(len(table) for table in tables)

    def padded(column: int) -> list[NDArray[np.float64]]:
        # One contiguous column at a time: vectorised functions may round strided data differently.
        columns = [np.ascontiguousarray(table[:, column]) for table in tables]
        return [np.pad(c, (0, longest - len(c)), mode="edge") for c in columns]

    return Segments(
        names=tuple(names),
        rows=np.array([len(table) for table in tables]),
        target=np.stack(padded(4)),
        roll_lataccel=np.stack([np.sin(roll) * GRAVITY for roll in padded(3)]),
        v_ego=np.stack(padded(1)),
        a_ego=np.stack(padded(2)),
        steer=np.stack([-table[:CONTROL_START, 5] for table in tables]),
    )


def write_segment(path: str | Path, table: NDArray[np.float64]) -> None:
    """Write one segment (rows, 6) as CSV; a steerCommand of NaN becomes an empty cell."""
    frame = pl.DataFrame(dict(zip(COLUMNS, table.T, strict=True)))
    with atomic_path(path) as temporary:
        frame.with_columns(pl.col("steerCommand").fill_nan(None)).write_csv(temporary)


def _files(source: Path, limit: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the CSV files of ``source``."""
    end = limit or None
    if source.is_dir():
        known = _known_hashes(source)
        for path in sorted(source.glob("*.csv"))[:end]:
            data = read_bytes(path)
            if known.get(path.stem, digest := sha256(data).hexdigest()) != digest:
                raise InputError(
                    f"segment {path.name!r} in {str(source)!r} is damaged or was edited: it does not "
                    f"have the hash in {INDEX}; extract again, or delete {INDEX}"
                )
            yield path.name, data
    elif not source.exists():
        raise InputError(f"segments {str(source)!r} do not exist; give a folder or zip of CSVs")
    elif source.suffix == ".csv":
        yield source.name, read_bytes(source)
    else:
        with open_archive(source) as archive:
            yield from _members(archive, source, end)


def _known_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each segment that an extraction left in the folder, by name."""
    if not (folder / INDEX).exists():
        return {}
    entries = read_json(folder / INDEX, list)
    return {
        str(entry["id"]): str(entry["sha256"])
        for entry in entries
        if isinstance(entry, dict) and {"id", "sha256"} <= entry.keys()
    }


def _members(archive: Archive, source: Path, end: int | None) -> Iterator[tuple[str, bytes]]:
    members = [m for m in archive.names if not m.startswith("__MACOSX/") and ".DS_Store" not in m]
    others = [m for m in members if not m.endswith(".csv")]
    if others:
        raise InputError(
            f"{str(source)!r} holds {others[0]!r}, which is no segment; "
            "make an archive of CSV files only"
        )
    for member in sorted(members, key=lambda m: PurePosixPath(m).name)[:end]:
        yield PurePosixPath(member).name, archive.read(member)


def _read(filename: str, data: bytes, source: Path) -> tuple[str, NDArray[np.float64]]:
    """Parse and validate one file; return its route name and table (rows, 6)."""
    where = f"segment {filename!r} in {str(source)!r}"
    if len(data.partition(b"\n")[0]) > LONGEST_HEADER or data.startswith(PACKED):
        raise InputError(f"{where} is no text; unpack it if it is compressed")
    try:
        # Every column is a float; without the schema an empty tail would decide the type.
        frame = pl.read_csv(io.BytesIO(data), schema_overrides=dict.fromkeys(COLUMNS, pl.Float64))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{where} is not a CSV of numbers: {reason}") from error
    missing = [c for c in COLUMNS if c not in frame.columns]
    if missing:
        raise InputError(
            f"{where} lacks column {missing[0]!r}; the header must be {','.join(COLUMNS)}"
        )
    if len(frame) < MIN_ROWS:
        raise InputError(
            f"{where} has {len(frame)} rows, needs {MIN_ROWS} (costs end at row {COST_END}, "
            f"and controllers look {PLAN_STEPS} rows ahead)"
        )
    table = frame.select(COLUMNS).to_numpy().astype(np.float64)
    for column, name in enumerate(COLUMNS):
        end = CONTROL_START if name == "steerCommand" else MIN_ROWS
        bad = np.flatnonzero(~np.isfinite(table[:end, column]))
        if bad.size:
            raise InputError(
                f"{where}: column {name!r} is empty or not finite in row {bad[0]} "
                f"(rows 0-{end - 1} must hold numbers)"
            )
    # The simulator can drive no further than the road is known.
    known = np.isfinite(table[:, 1:5]).all(axis=1)
    end = len(table) if known.all() else int(np.argmin(known))
    return filename.removesuffix(".csv"), table[:end]
