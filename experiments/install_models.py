r"""Install models into a checkout of openpilot or sunnypilot: checked, tried, backed up.

target= is the checkout, a folder of sunnypilot's bundles (with name=), or a folder of models alone, such
as %LOCALAPPDATA%\comma\modeld. vision= and policy= are ONNX files, from which the other files are built
with the target's own tinygrad. You may also give built files: vision_tinygrad= vision_metadata=
policy_tinygrad= policy_metadata=. A release of 2026 has one network, policy=, and builds its pickle itself.

The files must fit the contract that the target's modeld needs. The target's own parser and metadata
script then read them in a separate process. Without confirm=true nothing is changed; dry_run=true builds
and tries the files nevertheless. The old files are kept: restore=latest restores them.

Examples:
  steerlab install-models target=~/openpilot vision=driving_vision.onnx policy=driving_policy.onnx dry_run=true
  steerlab install-models target=~/openpilot vision=driving_vision.onnx policy=driving_policy.onnx confirm=true
  steerlab install-models target=~/openpilot restore=latest
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from steerlab.errors import InputError
from steerlab.exporters.install import (
    Given,
    Installed,
    Plan,
    install,
    prepare,
    recognise,
    restore,
    running_modeld,
)
from steerlab.exporters.safety import INTERFACE_ONLY, TRAINED_IN_SIMULATION
from steerlab.options import option
from steerlab.study import study


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    target: str = option("", "the checkout, or the folder of models")
    vision: str = option("", "ONNX file of the vision network")
    policy: str = option("", "ONNX file of the policy, or of the one network of 2026")
    vision_tinygrad: str = option("", "pickle of the vision network; '' builds it")
    vision_metadata: str = option("", "its metadata; '' takes them from the ONNX file")
    policy_tinygrad: str = option("", "pickle of the policy; '' builds it")
    policy_metadata: str = option("", "its metadata; '' takes them from the ONNX file")
    name: str = option("", "short name of a bundle of sunnypilot")
    tree: str = option("", "checkout whose modeld loads a target that is no checkout itself")
    contract: str = option("", "the contract, if nothing in the target shows it")
    python: str = option("", "Python with the target's packages; '' takes its .venv, else this one")
    device: str = option("", "tinygrad's device; '' takes that of the contract, QCOM on a comma")
    untrained: bool = option(False, "do not expect the plan to drive")
    smoke: bool = option(True, "try the files with the target's own parser and metadata script")
    dry_run: bool = option(False, "check, build and try the files, but change nothing")
    trust_pickle: bool = option(False, "run pickles that are given, which executes what is in them")
    confirm: bool = option(False, "I have read the warning: change the target")
    restore: str = option("", "restore this backup, or the latest, instead of installing")


def run(config: Config, output: Path | None) -> Installed | None:
    """Check, ask, install; or restore."""
    if not config.target:
        raise InputError("target= is missing; give a checkout of openpilot or sunnypilot")
    console = Console()
    target = recognise(config.target, config.tree, config.contract, config.name)
    console.print(escape(target.describe()), soft_wrap=True, highlight=False)
    if config.restore:
        for name in restore(target.models, config.restore):
            console.print(f"put back: {escape(name)}", highlight=False)
        return None
    with tempfile.TemporaryDirectory(prefix="steerlab-install-") as folder:
        staging = Path(folder)
        plan = prepare(
            target,
            Given(config.vision, config.vision_tinygrad, config.vision_metadata),
            Given(config.policy, config.policy_tinygrad, config.policy_metadata),
            staging,
            untrained=config.untrained,
        )
        _show(plan, console)
        console.print(f"[bold red]{TRAINED_IN_SIMULATION}[/]\n{INTERFACE_ONLY}")
        if not (config.confirm or config.dry_run):
            sys.exit("nothing was changed; to install, add confirm=true (or dry_run=true to try)")
        done = install(
            plan,
            staging,
            python=config.python,
            device=config.device,
            smoke=config.smoke,
            trust_pickle=config.trust_pickle,
            dry_run=config.dry_run,
            progress=lambda step: console.print(f"[bold]{step}[/]"),
        )
    for line in done.smoke:
        console.print(f"smoke test: {escape(line)}", soft_wrap=True, highlight=False)
    if done.backup is None:
        why = "dry run" if done.changes else "these files are there already"
        console.print(f"{why}: nothing was changed")
        return done
    back = f"steerlab install-models target={target.models} restore={done.backup.name}"
    console.print(f"installed; to go back: {escape(back)}", soft_wrap=True, highlight=False)
    return done


def _show(plan: Plan, console: Console) -> None:
    """Print what would change, and what is worth knowing."""
    for name, checks in plan.checks.items():
        passed = sum(check.status == "pass" for check in checks)
        console.print(f"{name}: fits {plan.contract.id} ({passed} of {len(checks)} checks apply)")
    table = Table("file", "what happens", box=None, header_style="bold")
    for change in plan.changes():
        there = (plan.target.models / change.name).exists()
        goes = change.source is None and "built" not in change.why
        verb = "removed" if goes else "replaced" if there else "new"
        table.add_row(escape(change.name), escape(f"{verb}: {change.why}"))
    console.print(table)
    for note in plan.notes:
        console.print(f"note: {escape(note)}", soft_wrap=True, highlight=False)
    for process in running_modeld():
        console.print(
            f"[bold yellow]modeld runs[/] ({escape(process)}): it keeps the old model until it is started "
            "again; stop it first",
            soft_wrap=True,
            highlight=False,
        )


main = study(Config, run, folder=False)

if __name__ == "__main__":
    main()
