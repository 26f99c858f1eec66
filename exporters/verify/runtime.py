"""Checks of the numbers: onnxruntime, torch, float16, tinygrad, a pickle, latency."""

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from steerlab.errors import InputError
from steerlab.exporters.onnx import half_precision, relative_difference
from steerlab.exporters.verify.base import Fail, Note, Skip, Subject
from steerlab.exporters.verify.meaning import gaussians
from steerlab.openpilot.contracts import LOG_STD_CLIP, head_of_width
from steerlab.openpilot.engines import OnnxEngine
from steerlab.openpilot.onnx_file import check_file, element_type
from steerlab.openpilot.probe import Probe, example_inputs, read_probe
from steerlab.openpilot.tinygrad import TinygradEngine, holds_jit, missing_compiler
from steerlab.readers.graphs import one_line
from steerlab.types import Array

#: Torch to onnxruntime, relative above 1; plan vectors by their length. Rounding depends on the processor: one
#: vision network differed by 9.5e-6 on one machine and by more than 1e-5 on another.
PARITY = 3e-5
TINYGRAD_PARITY = 1e-4  # tinygrad to onnxruntime, relative above 1


def runs(subject: Subject) -> str:
    """Onnxruntime runs the graph, and outputs stay finite."""
    path = subject.beside("probe.npz", subject.options.probe)
    if subject.options.probe or path.is_file():
        subject.probe = read_probe(path, subject.model)
    else:
        subject.probe = Probe(
            example_inputs(subject.model), np.empty((0, 0), np.float32), recorded=False
        )
    extreme = Probe(example_inputs(subject.model, seed=1, scale=100.0), np.empty((0, 0)))
    # onnxruntime does not find every kind of constant in another file.
    subject.engine = OnnxEngine(
        subject.proto.SerializeToString() if subject.others else subject.path
    )
    found = []
    for row in subject.rows(subject.probe) + subject.rows(extreme):
        answer = subject.engine.run(row)
        if "outputs" not in answer or answer["outputs"].shape[:1] != (1,):
            raise Fail(f"returns {', '.join(answer)}", "return one vector (1, N) named outputs")
        found.append(np.asarray(answer["outputs"][0], np.float32).reshape(-1))
    if not all(np.isfinite(values).all() for values in found):
        raise Fail("outputs are not finite on random inputs", "look for overflow and 0/0")
    subject.outputs = found[: subject.probe.count]
    source = f"inputs of {path.name}" if path.is_file() else "random inputs"
    return f"finite on {len(subject.outputs)} {source} and {extreme.count} extreme ones"


def torch_parity(subject: Subject) -> str:
    """Onnxruntime says what torch said when the probe was written."""
    outputs, wanted = subject.ran(), subject.known.outputs
    if wanted.shape != outputs.shape:
        raise Skip("no outputs of torch in a probe")
    found = difference(outputs, wanted, subject.slices)
    text = f"{found:.1e} ({difference(outputs, wanted):.1e} value by value)"
    if not found <= PARITY:
        raise Fail(f"differs by {text}", "export in float32; about 1e-05 is rounding")
    return text


def difference(a: Array, b: Array, slices: Mapping[str, slice] | None = None) -> float:
    """Return the largest difference, relative where values exceed 1 (float32 resolves no more).

    With ``slices``, a plan's positions, velocities and accelerations count as vectors: 300 m ahead the
    rounding of a heading moves a point sideways by 2e-5 m, whichever axis that happens to be.
    """
    scale = None
    if slices and "plan" in slices:
        scale = np.maximum(1.0, np.abs(b))
        place = slices["plan"]
        head = head_of_width("plan", b[:, place].shape[1])
        sizes = scale[:, place].reshape(len(b), head.hypotheses, -1)
        means = b[:, place].reshape(sizes.shape)[..., : head.size].astype(float)
        vectors = means.reshape(*means.shape[:2], head.shape[0], -1, 3)
        length = np.linalg.norm(vectors[..., :3, :], axis=-1, keepdims=True)
        known = sizes[..., : head.size].reshape(vectors.shape)
        known[..., :3, :] = np.maximum(1.0, length)
        sizes[..., : head.size] = known.reshape(means.shape)
        scale[:, place] = sizes.reshape(len(b), -1)
    return relative_difference(a, b, scale)


def half(subject: Subject) -> str:
    """The graph stays finite in float16."""
    outputs = subject.ran()
    if any(element_type(i) == "float16" for i in subject.inputs.values()):
        raise Skip("the graph is float16 already")
    weights = [i for i in subject.proto.graph.initializer if i.data_type == onnx.TensorProto.FLOAT]
    largest = max(
        (float(np.abs(onnx.numpy_helper.to_array(w)).max(initial=0)) for w in weights), default=0.0
    )
    if largest > float(np.finfo(np.float16).max):
        raise Fail(f"a weight is {largest:.3g}", "keep weights below 65504: float16 ends there")
    engine = half_engine(subject)
    found = np.array([engine.run(row)["outputs"][0] for row in subject.rows(subject.known)])
    if not np.isfinite(found).all():
        raise Fail("outputs overflow in float16", "keep values between the layers below 65504")
    if subject.slices and _largest_log_std(subject.slices, outputs) > LOG_STD_CLIP:
        raise Fail("a log-std is above 11", "keep log-std below 11: e^11 nearly fills float16")
    return f"finite, differs by {difference(found, outputs):.1e}"


def half_engine(subject: Subject) -> OnnxEngine:
    """Return the graph in float16.

    Raises:
        Note: Our converter cannot do it.
    """
    try:
        return OnnxEngine(half_precision(subject.proto).SerializeToString())
    except InputError:
        raise
    except Exception as error:  # of the converter, on graphs that are not ours
        raise Note(f"cannot be converted to float16 here: {one_line(error)}") from error


def _largest_log_std(slices: Mapping[str, slice], outputs: Array) -> float:
    largest = -np.inf
    for name, place in gaussians(slices, outputs):
        head = head_of_width(name, outputs[:, place].shape[1])
        part = outputs[:, place].reshape(len(outputs), head.hypotheses, -1)
        largest = max(largest, float(part[..., head.size : 2 * head.size].max()))
    return largest


def tinygrad(subject: Subject) -> str:
    """Tinygrad says what onnxruntime says."""
    outputs = subject.ran()
    if not subject.options.tinygrad:
        raise Skip("tinygrad=false")
    if len(subject.model.output_names) > 1:
        raise Skip("the states of this form are joined to the graph by openpilot's own build")
    if missing := missing_compiler():
        raise Skip(missing)
    path = subject.options.tinygrad_path
    with TinygradEngine(subject.path, tinygrad_path=path) as engine:
        return _against(subject, engine, outputs)


def _against(subject: Subject, engine: TinygradEngine, outputs: Array) -> str:
    found = np.array(
        [engine.run(row)["outputs"].reshape(-1) for row in subject.rows(subject.known)]
    )
    if found.shape != outputs.shape:
        raise Fail(f"returns {found.shape[1]} values", f"the graph has {outputs.shape[1]}")
    apart = difference(found, outputs, subject.slices)
    if not apart <= TINYGRAD_PARITY:
        raise Fail(f"differs by {apart:.1e}", "compare layer by layer; report it to tinygrad")
    version = subject.options.tinygrad_path or engine.info["tinygrad"]
    return f"{apart:.1e} (tinygrad {version}, {engine.info['device']})"


def pickle(subject: Subject) -> str:
    """The pickle holds what modeld calls."""
    path = subject.beside("tinygrad.pkl", subject.options.pickle)
    if not path.is_file():
        raise Skip("no pickle; 'drop-in' holds for ONNX and metadata only")
    if not holds_jit(check_file(path, "tinygrad pickle")):
        raise Fail(
            f"{path.name} holds no captured TinyJit",
            "modeld calls what it unpickles: capture the graph (steerlab.exporters.tinygrad."
            "compile_tinygrad), do not pickle weights",
        )
    if not subject.options.trust_pickle:
        raise Skip("holds a TinyJit; not loaded, since that executes it (trust_pickle=true)")
    if missing := missing_compiler():
        raise Skip(missing)
    tinygrad_path = subject.options.tinygrad_path
    with TinygradEngine(path, trust_pickle=True, tinygrad_path=tinygrad_path) as engine:
        wanted = {
            n: ["uint8", engine.info["device"]] if i.dtype == "uint8" else ["float32", "NPY"]
            for n, i in subject.model.inputs.items()
        }
        if engine.info["inputs"] != wanted:
            raise Fail(f"expects {engine.info['inputs']}", f"modeld passes {wanted}")
        return _against(subject, engine, subject.ran())


def latency(subject: Subject) -> str:
    """A run is fast enough. On a machine with other work that is a note, not a verdict."""
    subject.ran()
    assert subject.engine is not None
    row: Any = subject.feeds(subject.known, 0)
    wall, own = [], []
    for _ in range(max(1, subject.options.runs)):
        start, cpu = time.perf_counter(), time.thread_time()
        subject.engine.run(row)
        wall.append(1e3 * (time.perf_counter() - start))
        own.append(1e3 * (time.thread_time() - cpu))
    median, late = np.percentile(wall, [50, 95])
    text = f"median {median:.2f} ms, 95 % below {late:.2f} ms (onnxruntime, 1 thread)"
    limit = subject.options.latency_ms
    if median <= limit:
        return text
    if busy := _busy(float(np.sum(own)), float(np.sum(wall))):
        raise Note(f"{text}, above {limit:g} ms, but {busy}: measure again on a free machine")
    raise Fail(text, f"make it smaller: the limit is {limit:g} ms")


def _busy(own_ms: float, wall_ms: float) -> str:
    """Say what else kept this machine busy; '' if nothing did."""
    if own_ms < 0.8 * wall_ms:
        return f"the processor had time for it in {own_ms / wall_ms:.0%} of that"
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    return f"the load is {load:.1f} on {cores} cores" if load > 0.8 * cores else ""
