"""The smoke test: the target's own parser and metadata script read what is about to be installed."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from steerlab.errors import InputError
from steerlab.exporters.install.plan import GIVEN, Network, Plan
from steerlab.exporters.install.targets import LAYOUTS
from steerlab.exporters.verify.runtime import TINYGRAD_PARITY, difference
from steerlab.openpilot.contracts import Contract
from steerlab.openpilot.engines import OnnxEngine
from steerlab.openpilot.metadata import read_metadata
from steerlab.openpilot.outputs import parse
from steerlab.openpilot.probe import example_inputs
from steerlab.openpilot.tinygrad import TinygradEngine
from steerlab.readers.arrays import read_arrays
from steerlab.types import Array

_WORKER = Path(__file__).with_name("_smoke_worker.py")
_SECONDS = 300.0
#: The parsers of a checkout, the first that is there.
_PARSERS = ("parse_model_outputs_split.py", "parse_model_outputs.py")
_TOLERANCE = 1e-5


def smoke_test(plan: Plan, python: str = "", trust_pickle: bool = False) -> list[str]:
    """Let the target's own code read the staged files; return what was found, a line each.

    Args:
        plan: What is staged, pickles included.
        python: Interpreter with the target's packages; '' takes its ``.venv``, else this one.
        trust_pickle: Run pickles that were not built here, too, which executes what is in them.

    Raises:
        InputError: The target's code cannot be run, or reads something else than was written.
    """
    vectors = {n.name: _vector(n, plan.contract) for n in plan.networks}
    ours = [n for n in plan.networks if n.pickle and (trust_pickle or n.source != GIVEN)]
    lines = [_pickle(n, plan) for n in ours if n.onnx and plan.target.tinygrad]
    if plan.target.modeld is None or plan.target.tree is None:
        lines.append("no parser of the target at hand: give tree= for its smoke test")
        return lines
    interpreter = python or _interpreter(plan.target.tree)
    lines += _parser(plan, vectors, interpreter)
    places = (plan.target.modeld, *(plan.target.tree / layout for layout in LAYOUTS))
    script = next((f for p in places if (f := p / "get_model_metadata.py").is_file()), None)
    if script:
        lines += [_script(n, script, plan, interpreter) for n in plan.networks if n.onnx]
    else:
        lines.append("this checkout has no get_model_metadata.py")
    return lines


def _interpreter(tree: Path) -> str:
    """Return the checkout's own Python, else this one."""
    places = (tree / ".venv" / "bin" / "python", tree / ".venv" / "Scripts" / "python.exe")
    return next((str(place) for place in places if place.is_file()), sys.executable)


def _vector(network: Network, contract: Contract) -> Array:
    """Return an output (N,) of the network; of random numbers where there is no ONNX file to run."""
    length = network.metadata.output_shapes["outputs"][-1]
    if network.onnx is None:
        return np.random.default_rng(0).standard_normal(length).astype(np.float32)
    found = OnnxEngine(network.onnx).run(_example(network, contract))["outputs"]
    return np.asarray(found, np.float32).reshape(-1)


def _example(network: Network, contract: Contract) -> dict[str, Array]:
    """Return one set of inputs under the names of the file."""
    shapes = network.metadata.input_shapes
    model = contract.model(network.name, shapes=shapes)
    known = {name: values[0] for name, values in example_inputs(model, count=1).items()}
    inputs = {}
    for name, shape in shapes.items():
        if network.name == "driving_vision":
            inputs[name] = known["big_img" if "big" in name else "img"]
        else:  # some consumers feed zeros to inputs that they do not know
            inputs[name] = known.get(name, np.zeros(shape, np.float32))
    return inputs


def _pickle(network: Network, plan: Plan) -> str:
    """Run a pickle in the target's tinygrad and hold it to the ONNX file."""
    assert network.pickle
    assert network.onnx
    inputs = _example(network, plan.contract)
    wanted = OnnxEngine(network.onnx).run(inputs)["outputs"]
    path = plan.target.tinygrad
    with TinygradEngine(network.pickle, trust_pickle=True, tinygrad_path=path) as engine:
        found = engine.run(inputs)["outputs"].reshape(wanted.shape)
    apart = difference(found, wanted, network.metadata.slices)
    if not apart <= TINYGRAD_PARITY:
        raise InputError(
            f"{network.pickle.name} differs from the ONNX file by {apart:.1e}; it is of another network: "
            "leave it out, and it is built anew"
        )
    return (
        f"{network.pickle.name} in the target's tinygrad: differs by {apart:.1e} from the ONNX file"
    )


def _parser(plan: Plan, vectors: dict[str, Array], python: str) -> list[str]:
    """Let the target's parser read the vectors, and hold what it reads to our own reading."""
    modeld, tree = plan.target.modeld, plan.target.tree
    assert modeld
    assert tree
    file = next((modeld / name for name in _PARSERS if (modeld / name).is_file()), None)
    if file is None:
        raise InputError(f"{str(modeld)!r} has no parse_model_outputs.py; is it a whole checkout?")
    inside = modeld.relative_to(tree).parts
    parts = inside[1:] if inside[0] == "openpilot" else inside
    module = ".".join(("openpilot", *parts, file.stem))
    arrays: dict[str, Any] = {f"flat/{name}": vector for name, vector in vectors.items()}
    ours: dict[str, Array] = {}
    for network in plan.networks:
        size = vectors[network.name].size
        for head, place in network.metadata.slices.items():
            start, stop, _ = place.indices(size)
            arrays[f"slice/{network.name}/{head}"] = np.array([start, stop])
        ours |= parse(network.metadata.slices, vectors[network.name][None])
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.npz"), Path(folder, "out.npz")
        np.savez(source, **arrays)
        command = [python, "-P", str(_WORKER), str(tree), module, str(source), str(target)]
        _run(command, tree, f"the parser {module}")
        theirs = read_arrays(target)
    heads = [h for n in plan.networks for h in n.metadata.slices if h in ours]
    for name in heads:
        if name not in theirs:
            raise InputError(f"the target's parser gives no {name!r}; is it of another release?")
        if theirs[name].shape != ours[name].shape:
            raise InputError(
                f"the target's parser reads {name!r} as {theirs[name].shape}, {plan.contract.id} as "
                f"{ours[name].shape}"
            )
        if not np.allclose(theirs[name], ours[name], rtol=_TOLERANCE, atol=_TOLERANCE):
            raise InputError(
                f"the target's parser reads other values in {name!r} than were written"
            )
    return [f"{module}: reads {len(heads)} heads as they were written"]


def _script(network: Network, script: Path, plan: Plan, python: str) -> str:
    """Let the target's metadata script read the ONNX file, and hold what it writes to ours."""
    assert network.onnx
    assert plan.target.tree
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, network.onnx.name)
        copy.write_bytes(network.onnx.read_bytes())
        _run([python, str(script), str(copy)], plan.target.tree, f"{script.name} of the target")
        found = read_metadata(copy.with_name(f"{copy.stem}_metadata.pkl"))
    ours = network.metadata
    for what in ("slices", "input_shapes", "output_shapes"):
        if getattr(found, what) != getattr(ours, what):
            raise InputError(
                f"{script.name} of the target reads other {what} from {network.onnx.name} than are in "
                "its metadata; export both anew"
            )
    return f"{script.name}: the same slices and shapes of {network.name}"


def _run(command: list[str], tree: Path, what: str) -> None:
    """Run code of the target.

    Raises:
        InputError: It fails.
    """
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(tree), str(tree / "tinygrad_repo"))),
        "PYTHONDONTWRITEBYTECODE": "1",  # the checkout stays as it is
        "DEV": "CPU",
    }
    environment.pop("PYTHONSAFEPATH", None)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, env=environment,
            errors="replace", check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(
            f"{what} cannot be run: {error}; give python= of its environment"
        ) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else f"status {done.returncode}"
        raise InputError(
            f"{what} fails: {reason}; if it lacks a package, give python= of the checkout's own "
            "environment"
        )
