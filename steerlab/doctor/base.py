"""What a check found."""

import subprocess
from dataclasses import dataclass, replace

OK, NOTE, WRONG = "ok", "note", "WRONG"


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        name: What was looked at.
        status: ``ok``, ``note`` (absent, and only some studies need it) or ``WRONG``.
        found: What is there.
        remedy: The command or the step that mends it.
        topic: What it belongs to: python, an extra, gpu, tinygrad, carla, disk, data.
    """

    name: str
    status: str
    found: str
    remedy: str = ""
    topic: str = "python"

    def needed(self) -> "Finding":
        """Return it as it counts where its topic is needed."""
        return replace(self, status=WRONG) if self.status == NOTE else self


def answer_of(command: list[str], seconds: float = 20.0) -> str | None:
    """Return what a program prints; None if it is not there, fails or hangs."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=True, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
