"""Turn openpilot logs into TinyPhysics segments: CSV files, an index, and arrays for training.

The logs are given by routes=[...], by a file with one route per line, or by all routes of a device
(dongle_ids=[...]). A route is a name such as "0123456789abcdef/2024-01-02--03-04-05", if wanted with
minutes "/2:6" and kind "/q"; or a path or address of a log or of a folder of logs.

Route names are resolved by comma's API, with the token that openpilot's tools/lib/auth.py saves, or
below mirror=. You may interrupt the command at any time: the same command then continues.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from steerlab.errors import InputError
from steerlab.options import option
from steerlab.study import study
from steerlab.surrogates.logs.extract import DT, ExtractOptions
from steerlab.surrogates.logs.pipeline import Extraction, extract_all
from steerlab.surrogates.logs.routes import (
    CommaApi,
    LogFile,
    find_logs,
    parse_route,
    read_routes_file,
)


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    routes: list[str] = option([], "route names, logs, or folders of logs")
    routes_file: str | None = option(None, "text file with one route a line")
    dongle_ids: list[str] = option([], "devices whose routes are all used")
    routes_limit: int = option(50, "newest routes of each device; 0 = all")
    git_commits: list[str] = option([], "only logs recorded by these openpilot commits (prefixes)")
    log: str = option("auto", "rlog, qlog, or auto (the rlog if there is one)")
    mirror: str | None = option(
        None, "folder or file:// address of the routes, in place of the API"
    )
    samples_path: str = option("tinyphysics_segments", "folder to which the segments are written")
    write_samples: bool = option(
        True, "also write NNNNN.csv files, not only the arrays for training"
    )
    processes: int = option(4, "processes that download and read")
    min_seconds: float = option(
        54.9, "shortest segment that is kept; the simulator needs 549 rows, which are 54.9 s"
    )
    min_speed: float = option(0.0, "lowest speed, m/s; slower rows end a segment")
    settle_seconds: float = option(
        1.0, "time that is left out after an override or a loss of control, s"
    )
    roll_source: str = option(
        "liveParameters", "liveParameters (road), carControl (car) or liveLocationKalman (device)"
    )
    schema: str | None = option(
        None, "log.capnp of an openpilot checkout, in place of steerlab's own"
    )
    api_host: str | None = option(None, "address of the API; default $API_HOST or comma's")
    retries: int = option(5, "repetitions of a request that fails")


def run(config: Config, output: Path) -> Extraction:
    """Extract all segments and print what became of the logs."""
    console = Console()
    routes = list(config.routes)
    if config.routes_file:
        routes += read_routes_file(config.routes_file)
    if not routes and not config.dongle_ids:
        raise InputError("no logs are named; give routes=[...], routes_file= or dongle_ids=[...]")
    options = ExtractOptions(**{f.name: getattr(config, f.name) for f in fields(ExtractOptions)})
    options.check()
    api = CommaApi(config.api_host, retries=config.retries)
    commits = tuple(config.git_commits)

    absent: list[str] = []  # what has no logs, and why
    # Folders and files are looked through before the work; the service is asked during it.
    asked = [text for text in routes if config.mirror is None and parse_route(text)]
    found = [text for text in routes if text not in asked]
    at_hand = list(find_logs(found, config.log, api, config.mirror))

    def logs() -> Iterator[LogFile]:
        yield from at_hand
        names = [name for text in asked if (name := parse_route(text))]
        listed = (api.routes(d, config.routes_limit, commits) for d in config.dongle_ids)
        for route in chain(names, *listed):
            try:
                yield from api.logs(route, config.log)
            except InputError as error:
                absent.append(str(error))

    with tqdm(unit="log", desc="extracting") as bar:
        result = extract_all(
            logs(),
            config.samples_path,
            options,
            processes=config.processes,
            write_samples=config.write_samples,
            git_commits=commits,
            schema=config.schema,
            retries=config.retries,
            progress=bar.update,
        )
    report(console, config, result)
    if absent:
        console.print(*absent, sep="\n", markup=False, highlight=False)
        raise InputError(f"{len(absent)} routes could not be had; the first: {absent[0]}")
    if not result.segments:
        raise InputError("no segment was long enough; see the rows above, or lower min_seconds=")
    return result


def report(console: Console, config: Config, result: Extraction) -> None:
    """Print how many segments there are, where the other rows went, and what was skipped."""
    total = max(sum(result.rows.values()), 1)
    table = Table("rows", "seconds", "share", title="Every row of the 0.1 s grid", box=None)
    for name, count in result.rows.most_common():
        table.add_row(name, f"{count * DT:.1f}", f"{count / total:.1%}")
    console.print(table)
    if result.problem_counts:
        skipped = Table("skipped or damaged", "logs", box=None)
        for name, count in result.problem_counts.most_common():
            skipped.add_row(name, str(count))
        console.print(skipped)
        for log, what in result.problems[:20]:
            console.print(f"  {log}: {what}", style="dim", markup=False, highlight=False)
        if len(result.problems) > 20:
            console.print("  ... (each label file holds the report on its log)", style="dim")
    again = f", {result.resumed} of them done before" if result.resumed else ""
    console.print(
        f"{result.segments} segments from {result.logs} logs{again} in {config.samples_path}",
        markup=False,
        highlight=False,
    )


main = study(Config, run)

if __name__ == "__main__":
    main(None)
