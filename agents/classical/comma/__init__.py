"""Controller files written for comma's controls challenge, run unchanged.

Each file runs in a process of its own for its whole life (``host.py``), so that it finds what comma's
scripts give it, and two files cannot meet.
"""

import contextlib
import json
import struct
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.agents.classical.pid import PID, Zero
from steerlab.agents.tinyphysics import SHIPPED
from steerlab.envs.tinyphysics.rollout import Row, StartOver
from steerlab.errors import InputError
from steerlab.surrogates.segments.data import PLAN_STEPS

BUILT_IN: dict[str, Callable[[], Any]] = {"pid": PID, "zero": Zero}

_HOST = Path(__file__).with_name("host.py")
_CONTEXT = 20  # first step at which a controller is asked


class CommaController:
    """One controller of a file for each row, with the semantics of comma's scripts.

    There, every route makes a new controller in the same process, the simulator seeds numpy's global
    generator and draws from it too. Rows run side by side here, so each has its own state of every
    global generator that is drawn from (numpy, Python's ``random``, torch). Where routes depend on the
    routes before them (state on the class or in a module, a generator that is not seeded for each
    route), :class:`~steerlab.envs.tinyphysics.rollout.StartOver` asks for one after the other.

    Args:
        path: The file.
        in_order: Drive one route after the other, without looking for what they share.

    Attributes:
        uniforms: (N,) numbers in [0, 1) that the simulator draws with after an update.

    Raises:
        InputError: The file cannot be loaded, or its controller raises or returns no number.
    """

    shares_noise = True

    def __init__(self, path: str | Path, in_order: bool = False) -> None:
        self.path, self.in_order = Path(path), in_order
        self.used: list[str] = []
        self._process = _Process(self.path)

    def reset(self, rows: Sequence[Row]) -> None:
        """Make one controller for each row."""
        self._rows, self._time = list(rows), _CONTEXT
        seeds = [row.seed for row in rows]
        self._ask(do="reset", seeds=seeds, in_order=self.in_order, used=self.used)

    def update(
        self, target: NDArray[Any], current: NDArray[Any], state: Any, plan: Any
    ) -> NDArray[Any]:
        """Return the steer (N,), within its limits."""
        left = np.array([row.length - self._time - 1 for row in self._rows])
        self._time += 1
        values = [np.stack([np.minimum(left, PLAN_STEPS), target, current, *state], axis=1), *plan]
        answer = self._ask(*values, do="update", count=len(target)).reshape(2, -1)
        self.uniforms = answer[1]
        return np.clip(answer[0], -2.0, 2.0)

    def _ask(self, *values: NDArray[np.float64], **request: Any) -> NDArray[np.float64]:
        header, answer = self._process.ask(request, values)
        if "error" in header:
            raise InputError(
                f"controller {str(self.path)!r}{header.get('line', '')}: {header['error']}"
            )
        if "uses" in header:
            self.used.append(header["uses"])
            self._process = _Process(self.path)
            raise StartOver(f"controller {str(self.path)!r} draws from {header['uses']}")
        if "shared" in header:
            reason = f"controller {str(self.path)!r} needs its routes one after the other: "
            raise StartOver(reason + header["shared"], in_order=True)
        return answer


class _Process:
    """A controller file in a process of its own.

    Raises:
        InputError: The file cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(
                f"controller {str(path)!r} is neither {' nor '.join(BUILT_IN)} nor a file; "
                "check the path"
            )
        self.path = path
        self._process = subprocess.Popen(
            [sys.executable, str(_HOST)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._end = weakref.finalize(self, _stop, self._process)
        header, _ = self.ask({"do": "load", "path": str(path.resolve()), "search": sys.path}, ())
        if "error" in header:
            raise InputError(f"controller {str(path)!r} {header['error']}")

    def ask(
        self, request: dict[str, Any], values: Sequence[NDArray[np.float64]]
    ) -> tuple[dict[str, Any], NDArray[np.float64]]:
        """Send a request; return the header and the values of the answer."""
        source, sink = self._process.stdout, self._process.stdin
        assert source is not None
        assert sink is not None
        text = json.dumps(request).encode()
        data = b"".join(np.ascontiguousarray(v, np.float64).tobytes() for v in values)
        try:
            sink.write(struct.pack("<II", len(text), len(data)) + text + data)
            sink.flush()
            size, rest = struct.unpack("<II", source.read(8))
            return json.loads(source.read(size)), np.frombuffer(source.read(rest))
        except (OSError, struct.error, ValueError) as error:
            code = self._process.wait()
            raise InputError(
                f"controller {str(self.path)!r} ended its own process (exit code {code})"
            ) from error


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the process of a controller."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # it may have ended already
                stream.close()
    process.kill()
    process.wait()


class CommaFile:
    """Makes controllers of one file; the first of them is the one that proved that it loads."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self._first: list[CommaController] = [CommaController(path)]

    def __call__(self, in_order: bool = False) -> CommaController:
        """Return a controller whose process has driven nothing yet."""
        if self._first and not in_order:
            return self._first.pop()
        return CommaController(self.path, in_order)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unproved, (self.path,)  # a process cannot be pickled


def _unproved(path: str | Path) -> CommaFile:
    """Return what another process needs: there nothing has to be proved."""
    made = CommaFile.__new__(CommaFile)
    made.path, made._first = path, []
    return made


def controller_factory(name: str) -> Callable[..., Any]:
    """Return a function that makes controllers by name, or from a controller file.

    Args:
        name: "pid", "zero" or the path of a file written for comma's repository.

    Raises:
        InputError: There is no such controller; raised here, before work starts.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    return CommaFile(str(SHIPPED) if name == "steerlab" else name)
