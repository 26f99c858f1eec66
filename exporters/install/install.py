"""Install what a plan says: build, try, back up, change, check; or leave everything as it was."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from steerlab.errors import InputError
from steerlab.exporters.install.backup import (
    backups,
    clean_up,
    fingerprint,
    make_backup,
    put_back,
)
from steerlab.exporters.install.plan import Change, Plan
from steerlab.exporters.install.smoke import smoke_test
from steerlab.exporters.tinygrad import compile_tinygrad
from steerlab.files import cache_folder, transaction, writable_folder
from steerlab.openpilot.tinygrad import missing_compiler

#: Devices of comma; their pickles are for QCOM and can be built there only.
_DEVICE_MARKS = (Path("/TICI"), Path("/AGNOS"))
STEPS = ("build", "smoke test", "back up", "change", "check")


@dataclass
class Installed:
    """What was done.

    Attributes:
        changes: Files that changed, or would; none if they are there already.
        smoke: What the smoke test found, a line each.
        backup: Folder with what was there before, None where nothing changed.
    """

    changes: list[Change]
    smoke: list[str] = field(default_factory=list)
    backup: Path | None = None


def install(
    plan: Plan,
    staging: Path,
    *,
    python: str = "",
    device: str = "",
    smoke: bool = True,
    trust_pickle: bool = False,
    dry_run: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> Installed:
    """Install what a plan says; whatever fails or stops it, the target is as it was before.

    Args:
        plan: What :func:`~steerlab.exporters.install.plan.prepare` made.
        staging: The folder that it staged the files in.
        python: Interpreter for the target's own code; '' takes its ``.venv``, else this one.
        device: tinygrad's device; '' takes that of the contract on a PC, QCOM on a comma device.
        smoke: Try the files with the target's own code first.
        trust_pickle: Run pickles that are given, not built here, which executes what is in them.
        dry_run: Build and try, but change nothing.
        progress: Called with the name of each step before it.

    Raises:
        InputError: A step failed.
    """
    models = writable_folder(plan.target.models)
    with _alone(models):
        clean_up(models)
        progress("build")
        _build(plan, staging, device)
        new = {c.name: fingerprint(c.source) if c.source else None for c in plan.changes()}
        changes = [c for c in plan.changes() if new[c.name] != fingerprint(models / c.name)]
        done = Installed(changes)
        if smoke:
            progress("smoke test")
            done.smoke = smoke_test(plan, python, trust_pickle)
        if dry_run or not changes:
            return done
        before = set(backups(models))
        try:
            progress("back up")
            done.backup = make_backup(models, {c.name: new[c.name] for c in changes})
            progress("change")
            _change(models, changes)
            progress("check")
            for name, wanted in new.items():
                if fingerprint(models / name) != wanted:
                    raise InputError(
                        f"{str(models / name)!r} is not what was written; is the disk ill?"
                    )
        except BaseException:
            _undo(models, before)
            raise
    return done


def _build(plan: Plan, staging: Path, device: str) -> None:
    """Make the pickles with the target's own tinygrad."""
    if not plan.builds:
        return
    if missing := missing_compiler():
        raise InputError(f"{missing}; or give vision_tinygrad= and policy_tinygrad=")
    if not device and any(mark.exists() for mark in _DEVICE_MARKS):
        device = "QCOM"
    for network in plan.builds:
        assert network.onnx
        path = staging / f"{network.name}_tinygrad.pkl"
        compile_tinygrad(
            network.onnx,
            path,
            device=device or plan.contract.tinygrad_device or "CPU",
            tinygrad_path=plan.target.tinygrad,
        )
        network.pickle, network.source = path, f"built with {plan.target.tinygrad}"


def _change(models: Path, changes: list[Change]) -> None:
    """Write and remove all files together."""
    with transaction(models) as files:
        for change in changes:
            if change.source is None:
                files.remove(change.name)
                continue
            path = files.path(change.name)
            shutil.copyfile(change.source, path)
            with suppress(OSError):  # there was none before
                shutil.copymode(models / change.name, path)


def _undo(models: Path, before: set[Path]) -> None:
    """Finish what was decided, then put back what was there."""
    clean_up(models)
    for backup in sorted(set(backups(models)) - before):
        put_back(models, backup)
    clean_up(models)


@contextmanager
def _alone(models: Path) -> Iterator[None]:
    """Be the only installation into a folder; the lock lies outside of it."""
    name = hashlib.sha256(str(models.resolve()).encode()).hexdigest()[:16]
    lock = FileLock(writable_folder(cache_folder() / "locks") / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"another installation into {str(models)!r} is under way; wait for it"
        ) from error
    try:
        yield
    finally:
        lock.release()


def running_modeld() -> list[str]:
    """Return the processes of openpilot's and sunnypilot's modeld, as ``number: command``."""
    found = []
    for process in psutil.process_iter(["pid", "name", "cmdline"]):
        command = " ".join(process.info["cmdline"] or [process.info["name"] or ""])
        words = command.replace("/", " ").replace(".", " ").split()
        if "modeld" in words or "modeld_v2" in words or "_modeld" in words:
            found.append(f"{process.info['pid']}: {command[:100]}")
    return found
