"""What export studies do with the files that they have just written: check them, and report on them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from steerlab.exporters.openpilot import Exported
from steerlab.exporters.safety import INTERFACE_ONLY
from steerlab.exporters.verify import Check, Options, failed, verify_export
from steerlab.exporters.verify.report import print_checks
from steerlab.openpilot.contracts import Contract


class ChecksFailed(SystemExit):
    """Files are written, and checks of them failed: the program ends with their names.

    Attributes:
        files: The files.
        names: The checks.
    """

    def __init__(self, files: Sequence[Path], wrong: Sequence[Check]) -> None:
        self.files, self.names = list(files), [check.name for check in wrong]
        super().__init__(f"{len(wrong)} checks failed: {', '.join(self.names)}")


def tell_written(
    networks: Mapping[str, Exported],
    notes: Sequence[str],
    warning: str,
    target: Contract,
    options: Options | None,
) -> None:
    """Print the files, their checks, notes and the warning.

    Args:
        networks: What was written, by the network's name in the contract.
        notes: What was left out, and how to get it.
        warning: That the files are not for the road.
        target: The contract.
        options: Of the checks; metadata and pickles are those of the files. None leaves the checks out.

    Raises:
        ChecksFailed: A check failed.
    """
    console = Console()
    files = [path for done in networks.values() for path in done.files]
    for path in files:
        console.print(escape(str(path)), soft_wrap=True)
    wrong: list[Check] = []
    for name, done in networks.items():
        if options is None:
            break
        own = replace(options, metadata=str(done.metadata), pickle=str(done.tinygrad or ""))
        checks = verify_export(done.onnx, target, name, own)
        print_checks(checks, console, f"{done.onnx.name} for {target.id}")
        wrong += failed(checks)
    for note in notes:
        console.print(escape(f"note: {note}"))
    console.print(f"[bold red]{warning}[/]\n{INTERFACE_ONLY}")
    if wrong:
        raise ChecksFailed(files, wrong)
