"""Forks of a clean process, which has imported everything and run nothing.

A fork of the process that runs the tests may hang: polars, onnxruntime or torch's threads may hold a
lock in it. So multiprocessing's fork server is started once, imports the package, and is forked.
"""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cloudpickle

_started: dict[int, BaseProcess] = {}


def fork(function: Callable[..., Any], *arguments: Any) -> int:
    """Call a function in a fork of the clean process; return the number of the process.

    Args:
        function: May be a closure.
        arguments: What it is called with.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.clean_fork_imports"])
    call = cloudpickle.dumps((function, arguments, dict(os.environ)))
    process = context.Process(target=_call, args=(call,))
    process.start()
    assert process.pid
    _started[process.pid] = process
    return process.pid


def ended(pid: int, seconds: float) -> int:
    """Wait for such a process; return its exit status, negative for a signal.

    Raises:
        TimeoutError: It goes on for longer; it is killed.
    """
    process = _started.pop(pid)
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"process {pid} went on for {seconds:g} s")
    return process.exitcode


def used_seconds() -> float:
    """Return the CPU time (s) of this process, of the clean one, and of all their processes that ended."""
    mine = os.times()
    found = mine.user + mine.system + mine.children_user + mine.children_system
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return found
    return found + sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _call(call: bytes) -> None:
    function, arguments, environment = cloudpickle.loads(call)
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)
