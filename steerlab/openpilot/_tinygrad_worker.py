"""Runs tinygrad in a process of its own; started by ``steerlab.openpilot.tinygrad`` only.

It imports nothing of steerlab, so that it also runs on another program's copy of tinygrad, and must
be started with ``python -P``: beside it lie modules with the names of packages it needs.

    ops                   print the ONNX operators this tinygrad knows
    capture ONNX PICKLE   write the captured TinyJit that openpilot's modeld loads
    serve FILE            run an ONNX file, or such a pickle, on arrays from the standard input

Answers are one JSON line; arrays travel as npz files, each after its length in 8 bytes.
"""

import ctypes
import importlib
import io
import json
import os
import pickle
import signal
import struct
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any, BinaryIO

import numpy as np


def onnx_module() -> Any:
    """Return the module of OnnxRunner, which has moved twice."""
    for name in ("tinygrad.nn.onnx", "tinygrad.frontend.onnx", "extra.onnx"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise SystemExit("this tinygrad has no OnnxRunner; use a version from 2025 or later")


def load_runner(path: str) -> Any:
    """Return an OnnxRunner; early ones take a parsed model and not a path."""
    module = onnx_module()
    try:
        return module.OnnxRunner(path)
    except (AttributeError, TypeError):
        import onnx

        return module.OnnxRunner(onnx.load(path))


def is_image(spec: Any) -> bool:
    """Tell whether modeld hands an input over as a tensor on the device and not as numpy's."""
    return np.dtype(_numpy_name(spec.dtype)) == np.uint8


def _numpy_name(dtype: Any) -> str:
    other = {"unsigned char": "uint8", "uchar": "uint8", "half": "float16", "float": "float32"}
    return other.get(dtype.name, dtype.name)


def tensors_for(arrays: dict[str, Any], images: set[str]) -> dict[str, Any]:
    """Return the tensors as modeld makes them: images on the device, the rest on NPY."""
    from tinygrad import Tensor

    return {
        name: (Tensor(a) if name in images else Tensor(a, device="NPY")).realize()
        for name, a in arrays.items()
    }


def capture(path: str) -> tuple[Any, set[str]]:
    """Return the jit of an ONNX file after three runs, and the names of its image inputs."""
    from tinygrad import Device, TinyJit

    runner = load_runner(path)
    specs = runner.graph_inputs

    def run(**inputs: Any) -> Any:
        moved = {name: tensor.to(Device.DEFAULT) for name, tensor in inputs.items()}
        return next(iter(runner(moved).values())).cast("float32")

    jit = TinyJit(run, prune=True)
    images = {name for name, spec in specs.items() if is_image(spec)}
    rng = np.random.default_rng(0)
    for _ in range(3):
        arrays = {
            name: rng.integers(0, 256, spec.shape).astype(np.uint8)
            if name in images
            else rng.standard_normal(spec.shape).astype(np.float32)
            for name, spec in specs.items()
        }
        jit(**tensors_for(arrays, images)).numpy()
    return jit, images


def describe(jit: Any) -> dict[str, list[str]]:
    """Return what a captured jit expects: name -> type and device; empty if it does not say."""
    captured = jit.captured
    names = [str(name) for name in captured.expected_names]
    infos = getattr(captured, "expected_input_info", None)
    if infos is None:
        infos = captured.expected_st_vars_dtype_device
    return {n: [_numpy_name(i[2]), str(i[3])] for n, i in zip(names, infos, strict=True)}


def answer(answers: BinaryIO, **values: Any) -> None:
    """Send one JSON line."""
    from tinygrad import Device

    try:
        number = version("tinygrad")
    except PackageNotFoundError:
        number = "unknown"
    line = {"device": Device.DEFAULT, "tinygrad": number} | values
    answers.write(json.dumps(line).encode() + b"\n")
    answers.flush()


def serve(path: str, answers: BinaryIO) -> None:
    """Load a file, say what it expects, then run it on every set of arrays that comes."""
    if path.endswith(".pkl"):
        with open(path, "rb") as file:
            jit = pickle.load(file)
        if not hasattr(jit, "captured"):
            raise SystemExit(f"the pickle holds a {type(jit).__name__}, not a captured TinyJit")
        images = {n for n, (dtype, _) in describe(jit).items() if dtype == "uint8"}
    else:
        jit, images = capture(path)
    answer(answers, inputs=describe(jit))
    while header := sys.stdin.buffer.read(8):
        data = sys.stdin.buffer.read(struct.unpack("<q", header)[0])
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            tensors = tensors_for(dict(arrays), images)
        start = time.perf_counter()
        outputs = jit(**tensors).numpy()
        seconds = time.perf_counter() - start
        buffer = io.BytesIO()
        np.savez(buffer, outputs=outputs, seconds=seconds)
        answers.write(struct.pack("<q", buffer.tell()) + buffer.getvalue())
        answers.flush()


def main() -> None:
    """Do what the arguments say."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the parent
    # tinygrad prints; what the parent reads must not mix with it.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    verb, *rest = sys.argv[1:]
    if verb == "ops":
        module = onnx_module()
        known = getattr(module, "onnx_ops", None) or module.get_onnx_ops()
        answer(answers, ops=sorted(known))
    elif verb == "capture":
        jit, _ = capture(rest[0])
        with open(rest[1], "wb") as file:
            pickle.dump(jit, file)
        answer(answers, inputs=describe(jit))
    else:
        serve(rest[0], answers)


if __name__ == "__main__":
    main()
