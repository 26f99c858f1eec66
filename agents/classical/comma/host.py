"""Run one controller file of comma's challenge: the program of a process of its own.

:class:`steerlab.agents.classical.comma.CommaController` starts it as a script. It imports nothing of
steerlab, so that the controller finds a Python process as comma's scripts would give it: the checkout
first on ``sys.path``, ``controllers`` and ``tinyphysics`` as modules, its own generators.

Messages go over the standard streams, each as two lengths, a JSON header and float64 values; what
the controller prints goes to the standard error. Three requests:

    load    the file; the answer says what is wrong with it
    reset   a controller for each row
    update  one step of all rows; the answer holds steer and the uniform numbers of the simulator

Rows run side by side as long as nothing lets one see another. If a global generator is drawn from, the
answer is ``uses``: then the rows have to start again, each with its own state of that generator. If
rows share state, the answer is ``shared``: then routes must be driven one after the other
(``in_order``), as comma's script drives them.
"""

import ctypes
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import re
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

HERE = Path(__file__).parent
CONTEXT, CONTROL_START, COST_END, PLAN = 20, 100, 500, 49


def _beside(name: str, file: str) -> ModuleType:
    """Load a module of this folder under a name that no checkout uses."""
    spec = importlib.util.spec_from_file_location(name, HERE / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


shared_state = _beside("_steerlab_shared_state", "shared_state.py")
official = _beside("_steerlab_tinyphysics", "tinyphysics.py")


class Answer(Exception):
    """What ends a request early: the header of its answer."""

    def __init__(self, **header: Any) -> None:
        self.header = header


class Generator(NamedTuple):
    """One of the global generators: how to read, set and seed it."""

    name: str  # as in a message
    get: Callable[[], Any]  # a state that can be compared with ==
    set: Callable[[Any], None]
    other: Callable[[], Any]  # a state that nobody has


def _numpy_state(generator: Any = np.random) -> tuple[Any, ...]:
    kind, key, *rest = generator.get_state()
    return (kind, key.tobytes(), *rest)


def _set_numpy(state: tuple[Any, ...]) -> None:
    kind, key, *rest = state
    np.random.set_state((kind, np.frombuffer(key, np.uint32), *rest))  # noqa: NPY002


def _torch_state() -> tuple[bytes, ...]:
    torch = sys.modules["torch"]
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        states += torch.cuda.get_rng_state_all()
    return tuple(state.numpy().tobytes() for state in states)


def _set_torch(states: tuple[bytes, ...]) -> None:
    torch = sys.modules["torch"]
    tensors = [torch.frombuffer(bytearray(state), dtype=torch.uint8) for state in states]
    torch.set_rng_state(tensors[0])
    if len(tensors) > 1:
        torch.cuda.set_rng_state_all(tensors[1:])


def _fresh_torch(seed: int | None = None) -> tuple[bytes, ...]:
    generator = sys.modules["torch"].Generator()
    if seed is not None:
        generator.manual_seed(seed)
    return (generator.get_state().numpy().tobytes(),)


PYTHON = Generator(
    "Python's random", random.getstate, random.setstate, random.Random(86420).getstate
)
NUMPY = Generator(
    "numpy.random", _numpy_state, _set_numpy, lambda: _numpy_state(np.random.RandomState(86420))
)
TORCH = Generator("torch's generator", _torch_state, _set_torch, lambda: _fresh_torch(86420))


def generators() -> list[Generator]:
    """Return the global generators of this process."""
    return [PYTHON, NUMPY, TORCH] if "torch" in sys.modules else [PYTHON, NUMPY]


class Row:
    """One controller, and the generators that are at their turn while it runs."""

    def __init__(self, controller: Any, seed: int, states: dict[str, Any]) -> None:
        self.controller = controller
        self.noise = np.random.RandomState(seed)
        self.states = states


class Host:
    """The controller file and its rows."""

    def load(self, path: str, search: list[str]) -> None:
        """Load a file as a module of the package ``controllers``, as comma's scripts do.

        Args:
            path: The file.
            search: What ``sys.path`` holds behind the folder above the file's.
        """
        self.path = Path(path)
        root = str(self.path.parent.parent)
        sys.path[:] = [root, *(entry for entry in search if entry != root)]
        known = frozenset(sys.modules)
        sys.meta_path.insert(0, _TinyPhysicsFinder(root))
        try:
            _make_package(self.path.parent)
            name = f"controllers.{re.sub(r'[^0-9A-Za-z_]', '_', self.path.stem)}"
            module = _execute(name, self.path)
        except (Exception, SystemExit) as error:
            raise Answer(error=f"cannot be loaded: {type(error).__name__}: {error}") from error
        self.make: Any = getattr(module, "Controller", None)
        if not callable(self.make):
            raise Answer(error="has no class or function named Controller")
        self.known = known
        self.base = {generator.name: generator.get() for generator in generators()}

    def reset(self, seeds: list[int], in_order: bool, used: list[str]) -> None:
        """Make one controller for each seed.

        Args:
            seeds: Seeds of the simulator's noise.
            in_order: Nothing is swapped or watched: rows follow each other.
            used: Generators of which each row gets its own.
        """
        self.time, self.in_order, self.used = CONTEXT, in_order, used
        if in_order:
            self.rows = [Row(self.new(), seeds[0], {})]
            np.random.seed(seeds[0])  # noqa: NPY002  as the official simulator does when it is made
            return
        self.before = self.snapshot()
        self.seeded: set[str] = set()
        self.rows = []
        for seed in seeds:
            controller = self.new_alone()
            states = {g.name: g.get() for g in generators() if g.name in used}
            states[NUMPY.name] = _numpy_state(np.random.RandomState(seed))
            self.rows.append(Row(controller, seed, states))
        for name in used:
            if name not in self.seeded and name != NUMPY.name:
                raise Answer(shared=f"it draws from {name} and does not seed it in __init__")
        self.check_shared()

    def new(self) -> Any:
        """Return a new controller."""
        try:
            return self.make()
        except (Exception, SystemExit) as error:
            raise self.failure("__init__", error) from error

    def new_alone(self) -> Any:
        """Return a new controller that starts from the generators as they were after loading.

        If it moves a generator without seeding it, it depends on the controllers before it.
        """
        self.set_base()
        controller = self.new()
        after = {g: g.get() for g in generators()}
        moved = [g for g in after if after[g] != self.base_of(g)]
        fresh = [g for g in moved if g.name not in self.seeded]
        if fresh:  # a second one, from other states: the same afterwards only if it seeds them
            self.set_base()
            for generator in fresh:
                generator.set(generator.other())
            self.new()
            for generator in fresh:
                if generator.get() != after[generator]:
                    raise Answer(
                        shared=f"it draws from {generator.name} in __init__ without seeding it"
                    )
                self.seeded.add(generator.name)
        for generator, state in after.items():
            generator.set(state)
        return controller

    def set_base(self) -> None:
        """Set every generator to what it was after loading."""
        for generator in generators():
            generator.set(self.base_of(generator))

    def base_of(self, generator: Generator) -> Any:
        """Return the state of a generator after loading; torch may have come later."""
        if generator.name not in self.base:
            self.base[generator.name] = _fresh_torch()
        return self.base[generator.name]

    def update(self, values: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
        """Ask every row for its steer.

        Args:
            values: (count * (6 + 4 * 49),): for each row the length of its plan (below 0: the row
                is over), target, current lateral acceleration, three of state; then the four parts
                of the plan, (4, count, 49).
            count: Number of rows.

        Returns:
            (2, count): steer, and the uniform numbers that the simulator draws after it.
        """
        inputs = values[: 6 * count].reshape(count, 6)
        plans = values[6 * count :].reshape(4, count, PLAN)
        answer = np.zeros((2, count))
        here = [] if self.in_order else generators()
        watched = {g: g.get() for g in here if g.name not in self.used}
        swapped = [g for g in here if g.name in self.used]
        for index, row in enumerate(self.rows):
            length = int(inputs[index, 0])
            if length < 0:
                continue
            for generator in swapped:
                generator.set(row.states[generator.name])
            steer = self.ask(row.controller, inputs[index], plans[:, index, :length])
            own = self.in_order or NUMPY.name in self.used
            uniform = np.random.random_sample() if own else row.noise.random_sample()  # noqa: NPY002
            answer[:, index] = steer, uniform
            for generator in swapped:
                row.states[generator.name] = generator.get()
        self.time += 1
        if not self.in_order:
            for generator in generators():
                if generator.name not in self.used:
                    before = watched.get(generator) or self.base_of(generator)
                    if generator.get() != before:
                        raise Answer(uses=generator.name)
            done = self.time - CONTEXT
            over = self.time == COST_END or (inputs[:, 0] <= 0).all()
            if over or done & (done - 1) == 0:  # after 1, 2, 4 and so on steps, and in the end
                self.check_shared()
        return answer

    def ask(self, controller: Any, inputs: np.ndarray[Any, Any], plan: Any) -> float:
        """Return the steer of one row; in the warm-up any answer will do."""
        try:
            steer = controller.update(
                inputs[1],
                inputs[2],
                official.State(*inputs[3:]),
                future_plan=official.FuturePlan(*(part.tolist() for part in plan)),
            )
        except (Exception, SystemExit) as error:
            raise self.failure("update", error, f" at step {self.time}") from error
        if self.time < CONTROL_START:
            return 0.0
        try:
            number = float(steer)
        except (TypeError, ValueError, RuntimeError):
            number = float("nan")
        if np.isnan(number):
            raise Answer(
                error=f"returned {str(steer)[:80]} at step {self.time}; update() must return a number"
            )
        return number

    def failure(self, method: str, error: BaseException, when: str = "") -> Answer:
        """Return the answer that names the line of the controller's file."""
        line, trace = "", error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == str(self.path):
                line = f", line {trace.tb_lineno}"
            trace = trace.tb_next
        return Answer(
            error=f"{method}() failed{when} with {type(error).__name__}: {error}", line=line
        )

    def snapshot(self) -> dict[str, bytes]:
        """Return the fingerprints of what controllers share."""
        try:
            found: dict[str, bytes] = shared_state.snapshot(self.known)
        except shared_state.Unwatchable as error:
            raise Answer(shared=f"its modules hold {error}, which cannot be watched") from error
        return found

    def check_shared(self) -> None:
        """End the request if a controller has changed what the others can see."""
        after = self.snapshot()
        name = shared_state.difference(self.before, after)
        if name is not None:
            raise Answer(shared=f"it changes {name}, which all its controllers share")
        self.before = after


class _TinyPhysicsFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``tinyphysics``: that of the checkout if it can be imported, else the official names."""

    def __init__(self, root: str) -> None:
        self.root = root

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec of ``tinyphysics``, and of nothing else."""
        if name != "tinyphysics":
            return None
        return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec: Any) -> ModuleType | None:
        """Leave it to Python."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module."""
        own = importlib.machinery.PathFinder.find_spec("tinyphysics", sys.path)
        if own is not None and own.loader is not None and own.origin:
            module.__file__ = own.origin
            try:
                own.loader.exec_module(module)
                return
            except ModuleNotFoundError as error:  # it plots and reads with more than we need
                print(f"tinyphysics.py of the checkout: {error}; using ours", file=sys.stderr)
        names = {k: v for k, v in vars(official).items() if not k.startswith("__")}
        vars(module).update(names, __steerlab__=True)


def _make_package(folder: Path) -> None:
    """Make the package ``controllers`` of a folder, with its ``__init__.py`` if it has one."""
    init = folder / "__init__.py"
    if init.is_file():
        package = _execute("controllers", init, [str(folder)])
    else:
        package = ModuleType("controllers")
        package.__path__ = [str(folder)]
        sys.modules["controllers"] = package
    if not hasattr(package, "BaseController"):
        package.BaseController = official.BaseController  # type: ignore[attr-defined]


def _execute(name: str, path: Path, search: list[str] | None = None) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=search)
    if spec is None or spec.loader is None:
        raise ImportError("it is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests until there are no more."""
    host = Host()
    while head := source.read(8):
        size, rest = struct.unpack("<II", head)
        request = json.loads(source.read(size))
        values = np.frombuffer(source.read(rest))
        answer, header = np.zeros(0), {}
        try:
            match request.pop("do"):
                case "load":
                    host.load(**request)
                case "reset":
                    host.reset(**request)
                case "update":
                    answer = host.update(values, **request)
        except Answer as end:
            header = end.header
        text = json.dumps(header).encode()
        sink.write(struct.pack("<II", len(text), answer.nbytes) + text + answer.tobytes())
        sink.flush()


def main() -> None:
    """Keep the standard streams for messages; let prints go to the standard error."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the parent
    serve(source, sink)


if __name__ == "__main__":
    main()
