"""Mutate OpenDRIVE files and compile them: each failure must give a clear error within a time limit.

A mutation changes, repeats or drops numbers, attributes, elements or bytes. The table counts the
results. A mutation that gives neither a map nor a clear error ends the study.

Example:
  steerlab fuzz-maps "maps=[shared/opendrive/e6mini.xodr]" count=1000
"""

import re
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from steerlab.envs.maps.opendrive import compile_text
from steerlab.errors import InputError
from steerlab.options import option
from steerlab.study import study

_NUMBER = re.compile(rb'="-?[0-9][^"]*"')
_ATTRIBUTE = re.compile(rb' [a-zA-Z]+="[^"]*"')
_ELEMENT = re.compile(rb"<(\w+)[^<>]*/>")
_NUMBERS = (
    b"0",
    b"-1",
    b"1",
    b"nan",
    b"inf",
    b"1e300",
    b"-1e9",
    b"1e-30",
    b"99999999999",
    b"x",
    b"",
)


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    maps: tuple[str, ...] = option((), "OpenDRIVE files to mutate")
    count: int = option(1000, "number of mutations")
    seed: int = option(0, "seed of the mutations")
    seconds: float | None = option(None, "time limit of a compilation, s")


def run(config: Config, output: Path) -> dict[str, int]:
    """Compile ``count`` mutations and return how often each outcome came."""
    if not config.maps or config.count < 1:
        raise InputError("fuzz-maps needs maps=[...] with at least one file, and a count above 0")
    try:
        texts = [Path(path).read_bytes() for path in config.maps]
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from error
    outcomes: Counter[str] = Counter()
    longest, log = 0.0, []
    with tempfile.TemporaryDirectory() as folder:
        for i in tqdm(range(config.count), unit="map"):
            rng = np.random.default_rng([config.seed, i])
            text = mutate(texts[i % len(texts)], rng)
            begun = time.perf_counter()
            try:
                compile_text(text, "mutated", f"mutation {i}", config.seconds, Path(folder))
                outcome = "map"
            except InputError as error:
                outcome = kind(str(error))
                log.append(f"{i}\t{error}")
            longest = max(longest, time.perf_counter() - begun)
            outcomes[outcome] += 1
    (output / "failures.txt").write_text("\n".join(log) + "\n", encoding="utf-8")
    table = Table("outcome", "count", header_style="bold")
    for outcome, count in outcomes.most_common():
        table.add_row(outcome, str(count))
    table.caption = f"{config.count} mutations, the longest took {longest:.1f} s"
    Console().print(table)
    return dict(outcomes)


def kind(message: str) -> str:
    """Return the kind of a failure, without what is particular to one map."""
    for sign, name in (("was not done", "time limit"), ("crashed", "crash")):
        if sign in message:
            return name
    error = re.search(r"(\w+Error): ", message)
    return error.group(1) if error else "refused by a check of ours"


def mutate(text: bytes, rng: np.random.Generator) -> bytes:
    """Return ``text`` with one to four mutations."""
    for _ in range(int(rng.integers(1, 5))):
        text = _CHANGES[int(rng.integers(len(_CHANGES)))](text, rng)
    return text


def _pick(text: bytes, pattern: re.Pattern[bytes], rng: np.random.Generator) -> tuple[int, int]:
    """Return where a random match of ``pattern`` is; one behind a random place, for speed."""
    found = pattern.search(text, int(rng.integers(max(len(text), 1)))) or pattern.search(text)
    return found.span() if found else (0, 0)


def _number(text: bytes, rng: np.random.Generator) -> bytes:
    begin, end = _pick(text, _NUMBER, rng)
    new = _NUMBERS[int(rng.integers(len(_NUMBERS)))]
    return text[:begin] + b'="' + new + b'"' + text[end:] if end else text


def _attribute(text: bytes, rng: np.random.Generator) -> bytes:
    begin, end = _pick(text, _ATTRIBUTE, rng)
    return text[:begin] + text[end:]


def _element(text: bytes, rng: np.random.Generator) -> bytes:
    begin, end = _pick(text, _ELEMENT, rng)
    return text[:begin] + text[end:]


def _repeat(text: bytes, rng: np.random.Generator) -> bytes:
    begin, end = _pick(text, _ELEMENT, rng)
    return text[:end] + text[begin:end] + text[end:]


def _byte(text: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(max(len(text), 1)))
    return text[:at] + bytes([int(rng.integers(32, 127))]) + text[at + 1 :]


def _block(text: bytes, rng: np.random.Generator) -> bytes:
    """Drop some lines."""
    lines = text.splitlines(keepends=True)
    at = int(rng.integers(max(len(lines), 1)))
    return b"".join(lines[:at] + lines[at + int(rng.integers(1, 12)) :])


_CHANGES = (_number, _number, _number, _attribute, _element, _repeat, _byte, _block)

main = study(Config, run)

if __name__ == "__main__":
    main()
