"""Try the faults of the table: each in a copy of the checkout, with the tests that should notice it.

    python -m tests.mutations.run              # all; over an hour on two cores
    python -m tests.mutations.run lqr seeds    # those whose file has one of the words in its path

Prints a line for each and the survivors at the end. Real data is kept out of reach, as in a plain clone.
Not part of the tests: too long.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutations.table import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]


def copy_checkout(folder: Path) -> None:
    """Copy the files that git knows, links as links."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target, follow_symlinks=False)


def passes(folder: Path, tests: str) -> bool:
    """Run tests in ``folder`` until one fails; return whether none did.

    Raises:
        RuntimeError: pytest found no test, or could not run.
    """
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow",
    ]
    place = {"PYTHONPATH": str(folder), "STEERLAB_SHARED": str(folder / "no real data")}
    found = subprocess.run(
        [*command, *tests.split()],
        cwd=folder,
        env=os.environ | place,
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode > 2:
        raise RuntimeError(found.stdout[-2000:] + found.stderr[-2000:])
    return found.returncode == 0


def survives(folder: Path, mutation: Mutation) -> bool:
    """Return whether the tests pass with the fault in place."""
    path = folder / mutation.file
    sound = path.read_text(encoding="utf-8")
    try:
        path.write_text(sound.replace(mutation.old, mutation.new), encoding="utf-8")
        return passes(folder, mutation.tests)
    finally:
        path.write_text(sound, encoding="utf-8")


def main(words: list[str]) -> int:
    """Try them; return the number of survivors."""
    chosen = [m for m in MUTATIONS if not words or any(word in m.file for word in words)]
    survivors = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "steerlab")
        copy_checkout(folder)
        for tests in dict.fromkeys(m.tests for m in chosen):
            if not passes(folder, tests):
                raise SystemExit(f"{tests} fails without a fault; mend that first")
        for mutation in chosen:
            alive = survives(folder, mutation)
            survivors += [mutation] if alive else []
            print(
                f"{'SURVIVES' if alive else 'noticed '} {mutation.file}: {mutation.old}", flush=True
            )
    print(f"{len(survivors)} of {len(chosen)} survive")
    return len(survivors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
