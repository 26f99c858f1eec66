"""Try the faults of the table: each in a copy of the checkout, with the tests that should notice it.

    python -m tests.mutations.run              # all
    python -m tests.mutations.run lqr seeds    # those whose file has one of the words in its path

Prints a line for each and the survivors at the end. Real data is kept out of reach, as in a plain clone.
Not part of the tests: too long.
"""

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.mutations.table import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
#: Libraries that are imported once. None of them starts threads that a fork would lose.
LIBRARIES = (
    "beartype",
    "gymnasium",
    "hypothesis",
    "jaxtyping",
    "matplotlib.pyplot",
    "numba",
    "onnx",
    "sb3_contrib",
    "scipy.optimize",
    "scipy.stats",
    "torch._dynamo",
    "torch.utils.tensorboard",
)


def copy_checkout(folder: Path) -> None:
    """Copy the files that git knows, links as links."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target, follow_symlinks=False)


def passes(folder: Path, tests: str) -> bool:
    """Run tests in ``folder`` until one fails; return whether none did.

    They run in a fork of this process, which has imported the large libraries: that takes longer
    than most tests.

    Raises:
        RuntimeError: pytest found no test, or could not run.
    """
    output = folder.with_name("output.txt")
    child = os.fork()
    if child == 0:
        status = 3
        try:
            status = _run_tests(folder, tests.split(), output)
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, 1, 2):
        raise RuntimeError(f"pytest ended with {status}:\n{output.read_text()[-4000:]}")
    return status == 0


def _run_tests(folder: Path, tests: list[str], output: Path) -> int:
    """Run tests as a fresh process in ``folder`` would, and return pytest's exit status."""
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": str(folder), "STEERLAB_SHARED": str(folder / "no real data")}
    elsewhere = [place for place in sys.path if Path(place).resolve() != ROOT]
    sys.path[:] = [str(folder), *elsewhere]
    for name in [name for name in sys.modules if name.split(".")[0] in ("steerlab", "tests")]:
        del sys.modules[name]
    options = ["-x", "-q", "-n0", "-p", "no:cacheprovider", "-m", "not slow"]
    return int(pytest.main([*options, *tests]))


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
    for library in LIBRARIES:
        importlib.import_module(library)
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
