"""Python and the packages that steerlab asks for, the extras among them."""

import sys
import tomllib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import steerlab
from steerlab.doctor.base import NOTE, OK, WRONG, Finding

OLDEST = (3, 11)
#: Extras that name other extras, or that are for work on steerlab itself.
_COLLECTIONS = ("all", "dev", "docs")


def python_version(version: Sequence[int] = sys.version_info[:3]) -> Finding:
    """Check the version of Python, and that it is one of 64 bit."""
    text = ".".join(str(part) for part in version[:3])
    if tuple(version[:2]) < OLDEST:
        return Finding(
            "Python", WRONG, text, "make an environment with Python 3.11 or 3.12: uv venv -p 3.12"
        )
    if sys.maxsize < 2**32:
        return Finding("Python", WRONG, f"{text}, 32 bit", "install a Python of 64 bit")
    return Finding("Python", OK, f"{text} at {sys.prefix}")


def requirements() -> dict[str, list[Requirement]]:
    """Return what steerlab asks for: the core under '', and what each extra adds.

    An installed package tells it itself; a checkout is asked through its pyproject.toml.
    """
    project = Path(steerlab.__path__[0]).resolve().parent / "pyproject.toml"
    if project.is_file():
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        texts = {"": table["dependencies"], **table["optional-dependencies"]}
        return {extra: [Requirement(t) for t in some] for extra, some in texts.items()}
    found: dict[str, list[Requirement]] = {"": []}
    told = metadata.metadata("steerlab")
    for extra in told.get_all("Provides-Extra") or ():
        found[extra] = []
    for text in metadata.requires("steerlab") or ():
        requirement = Requirement(text)
        for extra, some in found.items():
            marker = requirement.marker
            if (extra == "") == (marker is None or "extra" not in str(marker)) and (
                marker is None or marker.evaluate({"extra": extra})
            ):
                some.append(requirement)
    return found


def package_findings() -> list[Finding]:
    """Check the packages of the core: one line for all that are right, one for each that is not."""
    wanted = [r for r in requirements()[""] if _applies(r)]
    lines = []
    for requirement in wanted:
        if problem := _problem(requirement):
            remedy = f'pip install "{requirement.name}{requirement.specifier}"'
            lines.append(Finding(f"package {requirement.name}", WRONG, problem, remedy))
    right = len(wanted) - len(lines)
    summary = f"steerlab {steerlab.__version__}: {right} of {len(wanted)} packages fit"
    return [Finding("core packages", OK, summary), *lines]


def extras() -> list[Finding]:
    """Check each extra."""
    lines = []
    for extra, wanted in requirements().items():
        if not extra or extra in _COLLECTIONS:
            continue
        applying = [r for r in wanted if _applies(r)]
        problems = [f"{r.name}: {p}" for r in applying if (p := _problem(r))]
        name = f"extra {extra}"
        if wanted and not applying:
            text = f"no wheel of {wanted[0].name} for this Python and system"
            lines.append(Finding(name, NOTE, text, "use Python 3.11 or 3.12 on Linux or Windows, "
                                 "x86-64", extra))  # fmt: skip
        elif problems:
            remedy = f'pip install "steerlab[{extra}]"'
            lines.append(Finding(name, NOTE, "; ".join(problems), remedy, extra))
        else:
            versions = ", ".join(f"{r.name} {metadata.version(r.name)}" for r in applying)
            lines.append(Finding(name, OK, versions, topic=extra))
    return lines


def _applies(requirement: Requirement) -> bool:
    return (
        requirement.marker is None
        or requirement.marker.evaluate({"extra": ""})
        or ("extra" in str(requirement.marker))
    )


def _problem(requirement: Requirement) -> str:
    """Say what is wrong with an installed package, '' if nothing is."""
    try:
        version = metadata.version(canonicalize_name(requirement.name))
    except metadata.PackageNotFoundError:
        return "not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"version {version}, needed is {requirement.specifier}"
    problems = (f"{r.name}: {p}" for r in _of_extras(requirement) if (p := _problem(r)))
    return next(problems, "")


def _of_extras(requirement: Requirement) -> list[Requirement]:
    """Return what the extras of a requirement ask for: gymnasium[mujoco] is mujoco, too."""
    asked = [Requirement(text) for text in metadata.requires(requirement.name) or ()]
    return [
        r
        for r in asked
        for extra in requirement.extras
        if r.marker and "extra" in str(r.marker) and r.marker.evaluate({"extra": extra})
    ]
