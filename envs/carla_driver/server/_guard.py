"""Stands between steerlab and a server that it started: when steerlab ends, the server ends.

``python -I _guard.py COMMAND ...`` starts the command in a group of its own and stops the whole group when
its standard input closes, which the operating system does when whoever holds it is gone, however it went.
It is a script that imports nothing of steerlab.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

GRACE = 3.0  # s between asking a process to end and ending it


def start(command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
    """Start a command in a process group of its own."""
    if sys.platform == "win32":
        options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP
    else:
        options["start_new_session"] = True
    return subprocess.Popen(command, **options)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it started."""
    if sys.platform == "win32":
        subprocess.run(
            ["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True, check=False
        )
    else:
        _signal_group(process.pid, signal.SIGTERM)
        end = time.monotonic() + GRACE
        while time.monotonic() < end and _group_lives(process):
            time.sleep(0.05)
        _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _group_lives(process: "subprocess.Popen[bytes]") -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def main(command: list[str]) -> int:
    """Run the command until it ends or standard input closes; return its exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    process = start(command, stdin=subprocess.DEVNULL)

    def watch() -> None:
        while os.read(0, 1024):
            pass
        stop(process)

    threading.Thread(target=watch, daemon=True).start()
    status = process.wait()
    stop(process)  # what it started may have outlived it
    return abs(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
