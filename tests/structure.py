"""Count the package, to compare two commits: files, lines, long functions, complex functions.

    python -m tests.structure [COMMIT ...]    # the working tree, or each of the commits

Lines are those of all Python files of the five subpackages, and of the folder steerlab/ without them. A long function has
more than 60 lines, a complex one a cyclomatic complexity above 12 as ruff's C901 measures it.
"""

import ast
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("surrogates", "envs", "agents", "exporters", "experiments")
LONG, COMPLEX = 60, 12


def count(root: Path) -> dict[str, int]:
    """Return the figures of a checkout."""
    files = {folder: sorted((root / folder).rglob("*.py")) for folder in FOLDERS}
    level_0 = [
        path
        for path in sorted((root / "steerlab").rglob("*.py"))
        if path.relative_to(root / "steerlab").parts[0] not in FOLDERS
    ]
    tests = sorted((root / "tests").rglob("*.py"))
    code = [path for paths in (*files.values(), level_0) for path in paths]
    in_folders = [path for paths in files.values() for path in paths]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (*code, *tests)}
    return {
        "files of the five subpackages": len(in_folders),
        "lines of the five subpackages": sum(lines[path] for path in in_folders),
        **{f"- {folder}": sum(lines[p] for p in paths) for folder, paths in files.items()},
        "files of steerlab/ (level 0)": len(level_0),
        "lines of steerlab/ (level 0)": sum(lines[path] for path in level_0),
        "files of tests": len(tests),
        "lines of tests": sum(lines[path] for path in tests),
        "longest file": max(lines[path] for path in code),
        f"functions above {LONG} lines": sum(map(_long_functions, code)),
        f"functions of complexity above {COMPLEX}": _complex_functions(root),
    }


def _long_functions(path: Path) -> int:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, functions)]
    return sum((n.end_lineno or n.lineno) - n.lineno + 1 > LONG for n in nodes)


def _complex_functions(root: Path) -> int:
    """Count them by ruff, comments that silence it included."""
    options = ["--isolated", "--ignore-noqa", "--select", "C901", "--output-format", "concise"]
    limit = ["--config", f"lint.mccabe.max-complexity={COMPLEX}"]
    found = subprocess.run(
        ["ruff", "check", *options, *limit, *FOLDERS, "steerlab"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return sum(" C901 " in line for line in found.stdout.splitlines())


def of_commit(commit: str) -> dict[str, int]:
    """Return the figures of a commit."""
    archive = subprocess.run(
        ["git", "archive", commit], cwd=ROOT, capture_output=True, check=True
    ).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="tar")
        return count(Path(folder))


def main(commits: list[str]) -> None:
    """Print the figures side by side."""
    columns = {c: of_commit(c) for c in commits} or {"working tree": count(ROOT)}
    names = list(next(iter(columns.values())))
    print("| | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name in names:
        print(
            f"| {name} | " + " | ".join(f"{figures[name]:,}" for figures in columns.values()) + " |"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
