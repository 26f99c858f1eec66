"""ONNX files as the pickled TinyJit that openpilot's modeld loads, made and run in a fresh process.

A pickle holds compiled kernels and tinygrad's own classes: it fits one version of tinygrad and one
kind of device. ``tinygrad_path`` therefore takes the copy that belongs to the target; the installed
one is for checks on this machine. Loading a pickle executes what is in it, so that needs an
explicit ``trust_pickle`` and never happens in the process of the caller.
"""

import io
import json
import os
import pickletools
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from steerlab.errors import InputError

_WORKER = Path(__file__).with_name("_tinygrad_worker.py")
#: As in openpilot's build for a PC.
_FLAGS = {"IMAGE": "0", "FLOAT16": "1", "JIT_BATCH_SIZE": "0", "NOLOCALS": "1"}


def missing_compiler() -> str:
    """Return a line on how to get the compiler that tinygrad needs on a CPU; '' if it is there."""
    if shutil.which("clang"):
        return ""
    return "tinygrad compiles with clang, which is not on PATH; install it (apt install clang)"


@cache
def supported_operators(tinygrad_path: str | Path | None = None) -> frozenset[str]:
    """Return the names of the ONNX operators that tinygrad implements."""
    return frozenset(ask(["ops"], "CPU", tinygrad_path, compiles=False)["ops"])


def holds_jit(path: str | Path) -> bool:
    """Tell whether a pickle holds a TinyJit, without loading it."""
    last = ""
    with open(path, "rb") as file:
        try:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name in ("GLOBAL", "STACK_GLOBAL"):  # the class of the outermost object
                    return str(argument or last).endswith("TinyJit")
                if opcode.name in ("SHORT_BINUNICODE", "BINUNICODE"):
                    last = str(argument)
                elif opcode.name not in ("PROTO", "FRAME", "MEMOIZE", "BINPUT"):
                    return False
        except ValueError:  # no pickle at all
            return False
    return False


def check_tinygrad_path(path: str | Path) -> Path:
    """Return the folder of a copy of tinygrad.

    Raises:
        InputError: It holds no tinygrad.
    """
    folder = Path(path).resolve()
    if not (folder / "tinygrad" / "__init__.py").is_file():
        raise InputError(
            f"tinygrad_path={str(path)!r} has no package tinygrad in it; give the folder that holds "
            "it, for example openpilot/tinygrad_repo"
        )
    return folder


class TinygradEngine:
    """An ONNX file or a pickled TinyJit, run by tinygrad in a process of its own.

    Use it as a context manager, or call :meth:`close`.

    Args:
        path: ``*.onnx``, or ``*.pkl``, which executes what is in it.
        trust_pickle: You know where the pickle comes from.
        device: tinygrad's device.
        tinygrad_path: Folder of the target's tinygrad; None takes the installed one.

    Raises:
        InputError: A pickle is not trusted, clang is missing, or tinygrad fails.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        trust_pickle: bool = False,
        device: str = "CPU",
        tinygrad_path: str | Path | None = None,
    ) -> None:
        if Path(path).suffix == ".pkl" and not trust_pickle:
            raise InputError(
                f"loading {str(path)!r} executes what is in it; set trust_pickle=true if you "
                "made it or know who did"
            )
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._process = _start(["serve", str(path)], device, tinygrad_path, self._log)
        assert self._process.stdout
        assert self._process.stdin
        line = self._process.stdout.readline()
        if not line:
            raise self._failure(f"tinygrad cannot run {str(path)!r}")
        self.info: dict[str, Any] = json.loads(line)
        self.seconds: list[float] = []  # of every call, without the transport

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return ``{"outputs": (B, N)}``; rows beyond the graph's one are run in turn."""
        rows = len(next(iter(inputs.values())))
        parts = [self._run({n: a[i : i + 1] for n, a in inputs.items()}) for i in range(rows)]
        return {"outputs": np.concatenate(parts)}

    def _run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        assert self._process.stdout
        assert self._process.stdin
        buffer = io.BytesIO()
        arrays = {n: a if a.dtype == np.uint8 else a.astype(np.float32) for n, a in inputs.items()}
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        try:
            self._process.stdin.write(struct.pack("<q", buffer.tell()) + buffer.getvalue())
            self._process.stdin.flush()
            header = self._process.stdout.read(8)
            data = self._process.stdout.read(struct.unpack("<q", header)[0])
        except (OSError, struct.error) as error:
            raise self._failure("tinygrad failed at a run") from error
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            self.seconds.append(float(found["seconds"]))
            return found["outputs"]

    def close(self) -> None:
        """End the process."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _failure(self, what: str) -> InputError:
        self._process.kill()
        self._process.wait()
        self._log.seek(0)
        reason = _reason(self._log.read().decode(errors="replace"))
        self.close()
        return InputError(f"{what}: {reason}")


def _start(
    arguments: list[str],
    device: str,
    tinygrad_path: str | Path | None,
    log: Any,
    compiles: bool = True,
) -> "subprocess.Popen[bytes]":
    if compiles and (missing := missing_compiler()):
        raise InputError(missing)
    environment = os.environ | _FLAGS
    environment.pop("PYTHONSAFEPATH", None)
    if tinygrad_path:
        environment["PYTHONPATH"] = str(check_tinygrad_path(tinygrad_path))
    elif device == "LLVM":
        device = "CPU"  # what the installed version calls it
    environment["DEV"] = device
    return subprocess.Popen(
        [sys.executable, "-P", str(_WORKER), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=environment,
    )


def ask(
    arguments: list[str],
    device: str,
    tinygrad_path: str | Path | None,
    compiles: bool = True,
) -> dict[str, Any]:
    """Run the worker to its end and return its one answer."""
    with tempfile.TemporaryFile() as log:
        process = _start(arguments, device, tinygrad_path, log, compiles)
        out, _ = process.communicate()
        if process.returncode:
            log.seek(0)
            reason = _reason(log.read().decode(errors="replace"))
            raise InputError(f"tinygrad cannot {arguments[0]} {arguments[1:2]}: {reason}")
    return json.loads(out)


_RAISED = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Exit|Interrupt)(?:: |$)")
_MOST = 300  # characters of a reason that are shown


def _reason(log: str) -> str:
    """Return in one line what a process that failed says of the cause.

    That is the last exception. One of a compiler goes on over several lines, the last of which is a
    caret under the place and says nothing; of these the line with the complaint counts.
    """
    lines = [line.rstrip() for line in log.splitlines() if re.search(r"\w", line)]
    raised = [i for i, line in enumerate(lines) if _RAISED.match(line)]
    if raised:
        first, *others = lines[raised[-1] :]
        complaints = [
            line.strip() for line in others if re.search(r"\berror\b", line, re.IGNORECASE)
        ]
        parts = [first, *complaints[:1]]
    else:
        complaints = [
            line.strip() for line in lines if re.search(r"\berror\b", line, re.IGNORECASE)
        ]
        parts = complaints[-1:] or lines[-1:] or ["it ended without a word"]
    text = " ".join(" ".join(parts).split())[:_MOST]
    # What libLLVM up to 14 says to kernels of a tinygrad that writes untyped pointers.
    if re.search(r"expected type|opaque.pointers|\bptr type\b", log):
        text += "; this tinygrad needs a newer libLLVM (set LLVM_PATH to one from 16 on)"
    return text
