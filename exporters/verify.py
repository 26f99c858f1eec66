"""Checks of a model file against a contract, each with what was found and how to mend it.

By default nothing of a foreign file is executed: the ONNX graph is read, metadata go through a
restricted loader, a tinygrad pickle is only looked at from outside.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from steerlab.errors import InputError
from steerlab.exporters.onnx import half_precision, relative_difference
from steerlab.openpilot.commands import plan_curvature
from steerlab.openpilot.contracts import (
    LOG_STD_CLIP,
    T_IDXS,
    TINYGRAD_UNSUPPORTED,
    YUV_PHASES,
    Contract,
    Model,
    head_of_width,
    plan_column,
)
from steerlab.openpilot.engines import Network, OnnxEngine
from steerlab.openpilot.images import image_pair, pack_i420
from steerlab.openpilot.metadata import Metadata, read_metadata, slices_from_properties
from steerlab.openpilot.outputs import parse
from steerlab.openpilot.probe import Probe, example_inputs, read_probe
from steerlab.openpilot.tinygrad import (
    TinygradEngine,
    holds_jit,
    missing_compiler,
    supported_operators,
)

Array = NDArray[Any]

PASS, FAIL, SKIP = "pass", "FAIL", "skip"
PARITY = 1e-5  # torch to onnxruntime, relative above 1; plan vectors by their length
TINYGRAD_PARITY = 1e-4  # tinygrad to onnxruntime, relative above 1
_CONSISTENT = 0.1  # relative error of a plan's integrals
CLOSED_LOOP = 0.1  # relative difference of float16's figures in the closed loop


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    name: str
    status: str  # pass, FAIL or skip
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Options:
    """What a verification may do, and where it finds things."""

    probe: str = ""  # npz; '' takes <stem>_probe.npz if it exists
    metadata: str = ""  # '' takes <stem>_metadata.pkl
    pickle: str = ""  # '' takes <stem>_tinygrad.pkl if it exists
    untrained: bool = False  # do not expect a plan that drives
    tinygrad: bool = True  # run the graph in tinygrad
    trust_pickle: bool = False
    tinygrad_path: str | None = None
    latency_ms: float = 50.0
    runs: int = 200  # for the latency
    #: Drives a network in a closed loop and returns its figures; None leaves that check out.
    drive: Callable[[Network], Mapping[str, float]] | None = None


@dataclass
class _File:
    """What is known of the file, filled by one check after the other."""

    path: Path
    contract: Contract
    model: Model
    options: Options
    proto: onnx.ModelProto
    slices: dict[str, slice] | None = None
    length: int | None = None
    engine: OnnxEngine | None = None
    probe: Probe | None = None
    probe_is_random: bool = True
    outputs: list[Array] = field(default_factory=list)

    def beside(self, name: str, chosen: str) -> Path:
        return Path(chosen) if chosen else self.path.with_name(f"{self.path.stem}_{name}")


class _Skip(Exception):
    """A check that cannot or need not run."""


class _Fail(Exception):
    """A check that failed: what was found, how to mend it."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(found)
        self.remedy = remedy


def verify_export(
    path: str | Path,
    contract: Contract,
    model_name: str = "",
    options: Options | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> list[Check]:
    """Return the result of every check.

    Args:
        path: The ONNX file.
        contract: What it should fulfil.
        model_name: Network of the contract; '' goes by the file name, else by the inputs.
        options: See :class:`Options`.
        progress: Called with the name of each check before it runs.

    Raises:
        InputError: The file is absent or not ONNX, or the name is unknown.
    """
    path, options = Path(path), options or Options()
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}; give the path of an ONNX file")
    try:
        proto = onnx.load(str(path))
    except Exception as error:  # protobuf's own, which is not public
        raise InputError(f"{str(path)!r} is not an ONNX file") from error
    name = model_name or _guess(path, contract, proto)
    file = _File(path, contract, contract.model(name), options, proto)
    results = []
    for title, check in _CHECKS.items():
        progress(title)
        try:
            results.append(Check(title, PASS, check(file)))
        except _Skip as skip:
            results.append(Check(title, SKIP, str(skip)))
        except _Fail as fail:
            results.append(Check(title, FAIL, str(fail), fail.remedy))
        except InputError as error:  # messages of the readers, remedy included
            found, _, remedy = str(error).rpartition("; ")
            results.append(Check(title, FAIL, found or str(error), remedy if found else ""))
    return results


def check_names() -> tuple[str, ...]:
    """Return the names of all checks, in their order."""
    return tuple(_CHECKS)


def failed(results: list[Check]) -> list[Check]:
    """Return the checks that failed."""
    return [r for r in results if r.status == FAIL]


def _guess(path: Path, contract: Contract, proto: onnx.ModelProto) -> str:
    for name in contract.model_names:
        if path.stem.startswith(name):
            return name
    inputs = {i.name for i in proto.graph.input}
    return max(contract.model_names, key=lambda n: len(inputs & set(contract.model(n).inputs)))


def _checker(file: _File) -> str:
    try:
        onnx.checker.check_model(file.proto, full_check=True)
    except Exception as error:
        raise _Fail(
            f"onnx.checker: {str(error).splitlines()[0]}", "export again; the graph is not valid"
        ) from error
    opset = max(o.version for o in file.proto.opset_import if o.domain in ("", "ai.onnx"))
    return f"{len(file.proto.graph.node)} nodes, opset {opset}"


def _dims(value: Any) -> tuple[int | str, ...]:
    return tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param or "?"
        for d in value.type.tensor_type.shape.dim
    )


def _type(value: Any) -> str:
    return onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()


_TYPES = {"float32": ("float", "float16"), "uint8": ("uint8",)}


def _graph_inputs(file: _File) -> dict[str, Any]:
    weights = {i.name for i in file.proto.graph.initializer}
    return {i.name: i for i in file.proto.graph.input if i.name not in weights}


def _input_names(file: _File) -> str:
    found, wanted = set(_graph_inputs(file)), set(file.model.inputs)
    one_wide = len(found) == 2 and sum("big" in name for name in found) == 1
    if file.model.name == "driving_vision" and one_wide:
        wanted = found  # the consumer goes by the metadata
    if missing := sorted(wanted - found):
        others = sorted(found - wanted)
        raise _Fail(
            f"missing {', '.join(missing)}" + f"; has {', '.join(others)}" * bool(others),
            f"use the names of {file.contract.id}, or the contract= of another release; keep every "
            "input in the graph, used or not: modeld feeds them all by name, and an exporter that "
            "drops unused ones breaks it",
        )
    extra = sorted(found - wanted)
    if extra and not file.contract.feeds_zeros_to_unknown_inputs:
        raise _Fail(f"unknown {', '.join(extra)}", f"use the names of {file.contract.id}")
    used = {name for node in file.proto.graph.node for name in node.input}
    if idle := sorted(found - used):
        raise _Fail(
            f"no node reads {', '.join(idle)}",
            "let the graph use every input (add zero times its mean): pruning would drop it",
        )
    zeros = f"; fed zeros: {', '.join(extra)}" * bool(extra)
    return ", ".join(sorted(found & wanted)) + zeros


def _input_shapes(file: _File) -> str:
    for name, value in _graph_inputs(file).items():
        spec = file.model.inputs.get(name)
        if spec is None and file.model.name == "driving_vision":
            spec = file.model.inputs["img"]
        if spec is None:
            continue
        dims = _dims(value)
        if any(isinstance(d, str) for d in dims):
            raise _Fail(
                f"{name} has the free axis {dims}",
                f"export with the static shape {spec.shape}, batch 1: free axes read as 0",
            )
        if dims != spec.shape:
            raise _Fail(f"{name} has shape {dims}", f"{file.contract.id} feeds {spec.shape}")
        if _type(value) not in _TYPES[spec.dtype]:
            raise _Fail(f"{name} is {_type(value)}", f"make it {spec.dtype}, as the consumer feeds")
    return "static, as the contract"


def _outputs(file: _File) -> str:
    found = {o.name: o for o in file.proto.graph.output}
    wanted = file.model.output_names
    if list(found)[:1] != ["outputs"] or set(found) != set(wanted):
        raise _Fail(
            f"{len(found)} output(s): {', '.join(found)}",
            f"return {' and '.join(wanted[:2])}{' ...' * (len(wanted) > 2)}: pack every head into "
            "one vector named outputs (steerlab.openpilot.outputs.pack)",
        )
    dims, kind = _dims(found["outputs"]), _type(found["outputs"])
    if len(dims) != 2 or dims[0] != 1 or not isinstance(dims[1], int):
        raise _Fail(f"outputs has shape {dims}", "make it (1, N), static")
    file.length = int(dims[1])
    if kind not in _TYPES["float32"]:
        raise _Fail(f"outputs is {kind}", "make it float32")
    return f"outputs {dims} {kind}"


def _operators(file: _File) -> str:
    used = {node.op_type for node in file.proto.graph.node}
    for function in file.proto.functions:
        used |= {node.op_type for node in function.node}
    if bad := sorted(used & TINYGRAD_UNSUPPORTED):
        raise _Fail(
            f"tinygrad has no {', '.join(bad)}",
            "write recurrent cells out step by step, and draw no random numbers in the graph",
        )
    known = supported_operators(file.options.tinygrad_path)
    if bad := sorted(used - known - {f.name for f in file.proto.functions}):
        raise _Fail(f"this tinygrad has no {', '.join(bad)}", "use other operators")
    return f"{len(used)} kinds, all known to tinygrad"


def _properties(file: _File) -> str:
    properties = {p.key: p.value for p in file.proto.metadata_props}
    file.slices = slices_from_properties(properties, "the ONNX file")
    return f"{len(file.slices)} slices, checkpoint {properties.get('model_checkpoint') or 'none'!r}"


def _metadata(file: _File) -> str:
    path = file.beside("metadata.pkl", file.options.metadata)
    if not path.is_file() and file.contract.tinygrad_device is None:
        raise _Skip(f"{file.contract.id} carries it inside its combined pickle")
    metadata: Metadata = read_metadata(path)
    if "outputs" not in metadata.output_shapes:
        raise _Fail(
            "output_shapes has no 'outputs'",
            "write {'outputs': (1, N)}: modeld reads that name",
        )
    shape = metadata.output_shapes["outputs"]
    if file.length is not None and shape != (1, file.length):
        raise _Fail(
            f"outputs is {shape} there, (1, {file.length}) in the graph", "export both anew"
        )
    for name, value in _graph_inputs(file).items():
        if metadata.input_shapes.get(name) != _dims(value):
            raise _Fail(
                f"input_shapes has {metadata.input_shapes.get(name)} for {name}",
                f"write {_dims(value)}, as in the graph",
            )
    if file.slices is None:
        file.slices = metadata.slices
    elif metadata.slices != file.slices:
        raise _Fail("its slices differ from those in the ONNX file", "export both anew")
    return path.name


def _slices(file: _File) -> str:
    if file.slices is None or file.length is None:
        raise _Skip("no slices or no output to hold them against")
    covered = np.zeros(file.length, int)
    for name, place in file.slices.items():
        if place.step not in (None, 1) or (place.stop or 0) > file.length:
            raise _Fail(f"{name} is {place} of {file.length} values", "keep it inside, step 1")
        covered[place] += 1
    if covered.max() > 1:
        raise _Fail(f"value {int(covered.argmax())} is in two slices", "let no slices overlap")
    if not covered.all():
        raise _Fail(
            f"value {int(covered.argmin())} is in no slice", "cover the vector; name the rest pad"
        )
    return f"cover all {file.length} values once"


def _heads(file: _File) -> str:
    if file.slices is None or file.length is None:
        raise _Skip("no slices")
    model = file.model
    if missing := [h for h in model.required if h not in file.slices]:
        raise _Fail(
            f"missing {', '.join(missing)}",
            f"{file.contract.id} needs all of {', '.join(model.required)} from {model.name}",
        )
    for head, widths in model.widths.items():
        if head in file.slices:
            width = len(range(*file.slices[head].indices(file.length)))
            if width not in widths:
                raise _Fail(
                    f"{head} has {width} values",
                    f"{file.contract.id} reads {' or '.join(map(str, widths))}",
                )
    return ", ".join(h for h in file.slices if h in model.widths)


def _runs(file: _File) -> str:
    path = file.beside("probe.npz", file.options.probe)
    if file.options.probe or path.is_file():
        file.probe, file.probe_is_random = read_probe(path, file.model), False
    else:
        file.probe = Probe(example_inputs(file.model), np.empty((0, 0)))
    try:
        file.engine = OnnxEngine(file.path)
    except Exception as error:
        raise _Fail(f"onnxruntime: {str(error)[:90]}", "export again") from error
    rows: Any = [_row(file, file.probe, k) for k in range(file.probe.count)]
    extreme = Probe(example_inputs(file.model, seed=1, scale=100.0), np.empty((0, 0)))
    rows += [_row(file, extreme, k) for k in range(extreme.count)]
    try:
        outputs = [file.engine.run(row)["outputs"][0] for row in rows]
    except Exception as error:
        raise _Fail(f"onnxruntime: {str(error)[:90]}", "mend the graph's inputs first") from error
    if not np.isfinite(outputs).all():
        raise _Fail("outputs are not finite on random inputs", "look for overflow and 0/0")
    file.outputs = outputs[: file.probe.count]
    source = "random inputs" if file.probe_is_random else f"inputs of {path.name}"
    return f"finite on {len(file.outputs)} {source} and {extreme.count} extreme ones"


def _row(file: _File, probe: Probe, k: int) -> dict[str, Array]:
    row = probe.row(file.model, k)
    names = set(_graph_inputs(file))
    if file.model.name == "driving_vision" and names != set(row):
        return {n: row["big_img" if "big" in n else "img"] for n in names}
    zeros = {
        n: np.zeros([int(d) for d in _dims(value)], np.float32)
        for n, value in _graph_inputs(file).items()
        if n not in row and file.contract.feeds_zeros_to_unknown_inputs
    }
    return {n: a for n, a in row.items() if n in names} | zeros


def _ran(file: _File) -> Array:
    if not file.outputs or file.engine is None:
        raise _Skip("the graph does not run")
    return np.array(file.outputs)


def _heads_ok(file: _File) -> Mapping[str, slice]:
    if file.slices is None:
        raise _Skip("no slices")
    try:
        parse(file.slices, _ran(file)[:1])
    except InputError as error:
        raise _Skip("the heads have widths that no consumer knows") from error
    return file.slices


def _meaning(file: _File) -> str:
    outputs, slices = _ran(file), _heads_ok(file)
    if file.probe is None or not file.probe.meaning:
        raise _Skip("no probe beside the file: what the network means is not known")
    meaning = file.probe.meaning
    wrong = _differences(parse(slices, outputs), meaning)
    if not wrong:
        return f"{len(meaning)} tensors read back as the network means them"
    for reading, remedy in _WRONG_READINGS.items():
        if not _differences(reading(slices, outputs), {n: meaning[n] for n in wrong}):
            raise _Fail(f"{', '.join(wrong)} read back wrong", remedy)
    raise _Fail(
        f"{', '.join(wrong)} read back wrong",
        "pack with steerlab.openpilot.outputs.pack; check order and slices",
    )


def _differences(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> list[str]:
    return [
        name
        for name, values in wanted.items()
        if name not in found
        or found[name].shape != values.shape
        or not np.allclose(found[name], values, rtol=1e-3, atol=1e-4)
    ]


def _read_interleaved(slices: Mapping[str, slice], outputs: Array) -> dict[str, Array]:
    """Parse as if every mean were followed by its own standard deviation."""

    def apart(values: Array, size: int) -> Array:
        pairs = values.reshape(*values.shape[:-1], size, 2)
        return np.concatenate([pairs[..., 0], pairs[..., 1]], axis=-1)

    return _read_changed(slices, outputs, apart)


def _read_softplus(slices: Mapping[str, slice], outputs: Array) -> dict[str, Array]:
    """Parse as if a standard deviation were the softplus of its value."""

    def logarithms(values: Array, size: int) -> Array:
        std = np.logaddexp(0.0, values[..., size:].astype(float))
        return np.concatenate([values[..., :size], np.log(np.maximum(std, 1e-30))], axis=-1)

    return _read_changed(slices, outputs, logarithms)


def _read_changed(
    slices: Mapping[str, slice], outputs: Array, change: Callable[[Array, int], Array]
) -> dict[str, Array]:
    """Parse after ``change`` of means and log-stds (..., 2 size) of every Gaussian."""
    outputs = outputs.copy()
    for name, place in _gaussians(slices, outputs):
        head = head_of_width(name, outputs[:, place].shape[1])
        part = outputs[:, place].reshape(len(outputs), head.hypotheses, -1)
        part[..., : 2 * head.size] = change(part[..., : 2 * head.size], head.size)
        outputs[:, place] = part.reshape(len(outputs), -1)
    return parse(slices, outputs)


def _read_mirrored(slices: Mapping[str, slice], outputs: Array) -> dict[str, Array]:
    """Parse as if yaw and curvature were positive to the left."""
    parsed = parse(slices, outputs)
    for name in [n for n in parsed if n.startswith("plan") and parsed[n].shape[-1:] == (15,)]:
        if "_stds" not in name:
            parsed[name] = parsed[name].copy()
            parsed[name][..., [plan_column("yaw"), plan_column("yaw_rate")]] *= -1.0
    if "desired_curvature" in parsed:
        parsed["desired_curvature"] = -parsed["desired_curvature"]
    return parsed


_INTERLEAVED = (
    "means and standard deviations are interleaved: write all means, then all log-stds, row-major"
)
_LEFT = "yaw is positive to the left: openpilot's is positive to the right, change the sign"
_WRONG_READINGS: dict[Callable[[Mapping[str, slice], Array], dict[str, Array]], str] = {
    _read_interleaved: _INTERLEAVED,
    _read_softplus: "standard deviations go through softplus: the consumer takes exp, so write "
    "their logarithm",
    _read_mirrored: _LEFT,
}


def _gaussians(slices: Mapping[str, slice], outputs: Array) -> Iterator[tuple[str, slice]]:
    for name, place in slices.items():
        with contextlib.suppress(InputError):
            if head_of_width(name, outputs[:, place].shape[1]).kind in ("gaussian", "mixture"):
                yield name, place


def _plan_physics(file: _File) -> str:
    outputs, slices = _ran(file), _heads_ok(file)
    if "plan" not in slices:
        raise _Skip("this network has no plan")
    error = _inconsistency(parse(slices, outputs)["plan"])
    if error < _CONSISTENT:
        plan = parse(slices, outputs)["plan"]
        if _turns_against_its_path(plan):
            raise _Fail("yaw turns against the path in x and y", _LEFT)
        return f"positions are the integral of velocities, yaw of its rate (to {error:.1%})"
    if _inconsistency(_read_interleaved(slices, outputs)["plan"]) < _CONSISTENT:
        raise _Fail("the plan makes sense only when it is read in pairs", _INTERLEAVED)
    if file.options.untrained:
        raise _Skip("untrained=true: the plan is not expected to drive")
    raise _Fail(
        f"the plan contradicts itself: its positions miss the integral of its velocities by "
        f"{error:.0%}",
        "train every column of the plan, not desired_curvature alone: the plan steers. For a "
        "network without training set untrained=true; for one that random inputs confuse, give "
        "probe= with recorded ones",
    )


def _inconsistency(plan: Array) -> float:
    """Return the largest relative error of x, y and yaw against the integrals of their rates."""
    worst = 0.0
    for value, rate in (("x", "vx"), ("y", "vy"), ("yaw", "yaw_rate")):
        v, r = (plan[..., plan_column(n)].astype(float) for n in (value, rate))
        steps = 0.5 * (r[:, 1:] + r[:, :-1]) * np.diff(T_IDXS)
        integral = np.concatenate([np.zeros((len(v), 1)), np.cumsum(steps, axis=1)], axis=1)
        scale = np.sqrt(np.mean(integral**2)) + 1e-3
        worst = max(worst, float(np.sqrt(np.mean((v - v[:, :1] - integral) ** 2)) / scale))
    return worst


def _turns_against_its_path(plan: Array) -> bool:
    yaw, vx, y = (plan[..., plan_column(n)].astype(float) for n in ("yaw", "vx", "y"))
    sideways = np.cumsum(0.5 * (vx * yaw)[:, 1:] * np.diff(T_IDXS), axis=1)
    moved = y[:, 1:] - y[:, :1]
    return bool((sideways * moved).sum() < -0.1 * np.sum(moved**2) < 0)


def _steers(file: _File) -> str:
    outputs, slices = _ran(file), _heads_ok(file)
    probe = file.probe
    if "plan" not in slices or probe is None:
        raise _Skip("this network has no plan")
    plan = parse(slices, outputs)["plan"]
    speed = probe.v_ego if probe.v_ego is not None else plan[:, 0, plan_column("vx")]
    curvature = plan_curvature(file.contract.command, plan.astype(float), speed, 0.35)
    if probe.driven_curvature is not None and np.std(probe.driven_curvature) > 1e-6:
        likeness = _correlation(curvature, probe.driven_curvature)
        if likeness < -0.5:
            raise _Fail(f"steers opposite to what was driven (correlation {likeness:.2f})", _LEFT)
        if likeness < 0.5 and not file.options.untrained:
            raise _Fail(
                f"does not steer as was driven (correlation {likeness:.2f})",
                "train the plan's yaw and yaw rate: they steer, desired_curvature does not",
            )
        return f"as was driven (correlation {likeness:.2f})"
    if "desired_curvature" not in slices:
        raise _Skip("neither driven_curvature in the probe nor desired_curvature in the file")
    head = parse(slices, outputs)["desired_curvature"][:, 0]
    likeness = _correlation(curvature, head)
    if np.std(head) < 1e-7 or likeness > 0.5:
        return f"the plan steers with desired_curvature (correlation {likeness:.2f})"
    if file.options.untrained:
        raise _Skip("untrained=true: the plan is not expected to drive")
    raise _Fail(
        f"the plan does not steer as desired_curvature says (correlation {likeness:.2f})",
        "train the plan: it steers, desired_curvature is read and thrown away",
    )


def _correlation(a: Array, b: Array) -> float:
    if np.std(a) < 1e-9 or np.std(b) < 1e-9:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _images(file: _File) -> str:
    if file.probe is None or file.probe.raw_frames is None or "img" not in file.probe.inputs:
        raise _Skip("no raw frames in the probe to hold the packing against")
    frames = pack_i420(file.probe.raw_frames)  # (K, 2, 6, 128, 256)
    wanted = image_pair(frames[:, 0], frames[:, 1])
    found = file.probe.inputs["img"].reshape(wanted.shape)
    if np.array_equal(found, wanted):
        return f"{len(found)} pairs are packed in the order {YUV_PHASES}"
    swapped = wanted[:, [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]]
    if np.array_equal(found, swapped):
        raise _Fail(
            "channels 1 and 2 of the brightness are swapped",
            "the order is (even row, even column), (odd, even), (even, odd), (odd, odd): follow "
            "the code of loadyuv.cl, not the README of the models; pack with pack_yuv",
        )
    raise _Fail("img is not what its frames pack to", "pack with pack_yuv, frame t-4 before t")


def _torch_parity(file: _File) -> str:
    outputs = _ran(file)
    if file.probe is None or file.probe.outputs.shape != outputs.shape:
        raise _Skip("no outputs of torch in a probe")
    difference = _difference(outputs, file.probe.outputs, file.slices)
    text = f"{difference:.1e} ({_difference(outputs, file.probe.outputs):.1e} value by value)"
    if difference > PARITY:
        raise _Fail(f"differs by {text}", f"export in float32; below {PARITY:g} is usual")
    return text


def _difference(a: Array, b: Array, slices: Mapping[str, slice] | None = None) -> float:
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


def _half(file: _File) -> str:
    outputs = _ran(file)
    assert file.probe is not None
    if any(_type(i) == "float16" for i in _graph_inputs(file).values()):
        raise _Skip("the graph is float16 already")
    weights = [i for i in file.proto.graph.initializer if i.data_type == onnx.TensorProto.FLOAT]
    largest = max((float(np.abs(_array(w)).max(initial=0)) for w in weights), default=0.0)
    if largest > float(np.finfo(np.float16).max):
        raise _Fail(f"a weight is {largest:.3g}", "keep weights below 65504: float16 ends there")
    engine = OnnxEngine(half_precision(file.proto).SerializeToString())
    rows = [_row(file, file.probe, k) for k in range(file.probe.count)]
    found = np.array([engine.run(row)["outputs"][0] for row in rows])
    if not np.isfinite(found).all():
        raise _Fail("outputs overflow in float16", "keep values between the layers below 65504")
    if file.slices and _largest_log_std(file.slices, outputs) > LOG_STD_CLIP:
        raise _Fail("a log-std is above 11", "keep log-std below 11: e^11 nearly fills float16")
    return f"finite, differs by {_difference(found, outputs):.1e}"


def _largest_log_std(slices: Mapping[str, slice], outputs: Array) -> float:
    largest = -np.inf
    for name, place in _gaussians(slices, outputs):
        head = head_of_width(name, outputs[:, place].shape[1])
        part = outputs[:, place].reshape(len(outputs), head.hypotheses, -1)
        largest = max(largest, float(part[..., head.size : 2 * head.size].max()))
    return largest


def _array(tensor: onnx.TensorProto) -> Array:
    return onnx.numpy_helper.to_array(tensor)


def _tinygrad(file: _File) -> str:
    outputs = _ran(file)
    if not file.options.tinygrad:
        raise _Skip("tinygrad=false")
    if len(file.model.output_names) > 1:
        raise _Skip("the states of this form are joined to the graph by openpilot's own build")
    if missing := missing_compiler():
        raise _Skip(missing)
    with TinygradEngine(file.path, tinygrad_path=file.options.tinygrad_path) as engine:
        return _against(file, engine, outputs)


def _against(file: _File, engine: TinygradEngine, outputs: Array) -> str:
    assert file.probe is not None
    rows = [_row(file, file.probe, k) for k in range(file.probe.count)]
    found = np.array([engine.run(row)["outputs"].reshape(-1) for row in rows])
    if found.shape != outputs.shape:
        raise _Fail(f"returns {found.shape[1]} values", f"the graph has {outputs.shape[1]}")
    difference = _difference(found, outputs, file.slices)
    if difference > TINYGRAD_PARITY:
        raise _Fail(f"differs by {difference:.1e}", "compare layer by layer; report it to tinygrad")
    version = file.options.tinygrad_path or engine.info["tinygrad"]
    return f"{difference:.1e} (tinygrad {version}, {engine.info['device']})"


def _pickle(file: _File) -> str:
    path = file.beside("tinygrad.pkl", file.options.pickle)
    if not path.is_file():
        raise _Skip("no pickle; 'drop-in' holds for ONNX and metadata only")
    if not holds_jit(path):
        raise _Fail(
            f"{path.name} holds no captured TinyJit",
            "modeld calls what it unpickles: capture the graph (steerlab.exporters.tinygrad."
            "compile_tinygrad), do not pickle weights",
        )
    if not file.options.trust_pickle:
        raise _Skip("holds a TinyJit; not loaded, since that executes it (trust_pickle=true)")
    if missing := missing_compiler():
        raise _Skip(missing)
    tinygrad_path = file.options.tinygrad_path
    with TinygradEngine(path, trust_pickle=True, tinygrad_path=tinygrad_path) as engine:
        wanted = {
            n: ["uint8", engine.info["device"]] if i.dtype == "uint8" else ["float32", "NPY"]
            for n, i in file.model.inputs.items()
        }
        if engine.info["inputs"] != wanted:
            raise _Fail(f"expects {engine.info['inputs']}", f"modeld passes {wanted}")
        outputs = _ran(file)
        return _against(file, engine, outputs)


def _closed_loop(file: _File) -> str:
    _ran(file)
    drive, slices = file.options.drive, _heads_ok(file)
    if drive is None:
        raise _Skip("no episodes to drive")
    if "plan" not in slices:
        raise _Skip("this network has no plan")
    assert file.engine is not None
    shapes = {n: tuple(int(d) for d in _dims(i)) for n, i in _graph_inputs(file).items()}
    full = drive(Network(file.engine, slices, shapes))
    half = drive(
        Network(OnnxEngine(half_precision(file.proto).SerializeToString()), slices, shapes)
    )
    apart = {
        n: abs(half[n] - v) / max(abs(v), 1e-9) if half[n] != v else 0.0 for n, v in full.items()
    }
    text = ", ".join(f"{n} {v:.4g} (float16 {half[n]:.4g})" for n, v in full.items())
    worst = max(apart, key=lambda n: apart[n])
    if not apart[worst] <= CLOSED_LOOP:
        raise _Fail(
            f"{text}: {worst} differs by {apart[worst]:.0%}",
            "keep float32 where the consumer allows it, or train with smaller weights",
        )
    return text


def _latency(file: _File) -> str:
    _ran(file)
    assert file.engine is not None
    assert file.probe is not None
    row, times = _row(file, file.probe, 0), []
    for _ in range(file.options.runs):
        start = time.perf_counter()
        file.engine.run(row)
        times.append(1e3 * (time.perf_counter() - start))
    median, late = np.percentile(times, [50, 95])
    text = f"median {median:.2f} ms, 95 % below {late:.2f} ms (onnxruntime, 1 thread)"
    if median > file.options.latency_ms:
        raise _Fail(text, f"make it smaller: the limit is {file.options.latency_ms:g} ms")
    return text


_CHECKS: dict[str, Callable[[_File], str]] = {
    "graph": _checker,
    "input names": _input_names,
    "input shapes": _input_shapes,
    "output": _outputs,
    "operators": _operators,
    "slices in the ONNX file": _properties,
    "metadata file": _metadata,
    "slices": _slices,
    "heads": _heads,
    "runs": _runs,
    "torch parity": _torch_parity,
    "meaning": _meaning,
    "plan": _plan_physics,
    "steering": _steers,
    "images": _images,
    "float16": _half,
    "tinygrad": _tinygrad,
    "tinygrad pickle": _pickle,
    "closed loop": _closed_loop,
    "latency": _latency,
}
