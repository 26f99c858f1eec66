"""Checks of the graph: inputs, outputs, operators, heads."""

import math

import onnx

from steerlab.exporters.verify.base import Fail, Skip, Subject
from steerlab.openpilot.contracts import TINYGRAD_UNSUPPORTED
from steerlab.openpilot.onnx_file import dimensions, element_type, nodes
from steerlab.openpilot.tinygrad import supported_operators
from steerlab.readers.graphs import one_line

_OLDEST = 7  # operator set that onnxruntime still promises to read
_TYPES = {"float32": ("float", "float16"), "uint8": ("uint8",)}


def checker(subject: Subject) -> str:
    """The graph is valid ONNX."""
    versions = [o.version for o in subject.proto.opset_import if o.domain in ("", "ai.onnx")]
    if not versions:
        raise Fail("names no operator set of ONNX", "export again with opset 18")
    newest = onnx.defs.onnx_opset_version()
    if not _OLDEST <= max(versions) <= newest:
        raise Fail(
            f"has opset {max(versions)}, beyond what onnx and onnxruntime read "
            f"({_OLDEST} to {newest})",
            "export again with opset 18",
        )
    try:
        onnx.checker.check_model(subject.proto, full_check=True)
    except Exception as error:  # the checker's own and protobuf's
        raise Fail(
            f"onnx.checker: {one_line(error)}", "export again; the graph is not valid"
        ) from error
    return f"{len(subject.proto.graph.node)} nodes, opset {max(versions)}"


def input_names(subject: Subject) -> str:
    """The inputs have the names that the consumer feeds, and nodes read them."""
    found, wanted = set(subject.inputs), set(subject.model.inputs)
    one_wide = len(found) == 2 and sum("big" in name for name in found) == 1
    if subject.model.name == "driving_vision" and one_wide:
        wanted = found  # the consumer goes by the metadata
    if missing := sorted(wanted - found):
        others = sorted(found - wanted)
        raise Fail(
            f"missing {', '.join(missing)}" + f"; has {', '.join(others)}" * bool(others),
            f"use the names of {subject.contract.id}, or the contract= of another release; keep every "
            "input in the graph, used or not: modeld feeds them all by name, and an exporter that "
            "drops unused ones breaks it",
        )
    extra = sorted(found - wanted)
    if extra and not subject.contract.feeds_zeros_to_unknown_inputs:
        raise Fail(f"unknown {', '.join(extra)}", f"use the names of {subject.contract.id}")
    used = {name for node in nodes(subject.proto) for name in node.input}
    if idle := sorted(found - used):
        raise Fail(
            f"no node reads {', '.join(idle)}",
            "let the graph use every input (add zero times its mean): pruning would drop it",
        )
    zeros = f"; fed zeros: {', '.join(extra)}" * bool(extra)
    return ", ".join(sorted(found & wanted)) + zeros


def input_shapes(subject: Subject) -> str:
    """The inputs have the shapes and types that the consumer feeds."""
    open_ones = []
    for name, value in subject.inputs.items():
        spec = subject.model.inputs.get(name)
        if spec is None and subject.model.name == "driving_vision":
            spec = subject.model.inputs["img"]
        if spec is None:
            continue
        shape = dimensions(value)
        if any(isinstance(d, str) for d in shape):
            raise Fail(
                f"{name} has the free axis {shape}",
                f"export with the static shape {spec.shape}, batch 1: free axes read as 0",
            )
        if shape != spec.shape:
            raise Fail(f"{name} has shape {shape}", f"{subject.contract.id} feeds {spec.shape}")
        if element_type(value) not in _TYPES[spec.dtype]:
            raise Fail(
                f"{name} is {element_type(value)}", f"make it {spec.dtype}, as the consumer feeds"
            )
        open_ones += [f"{name} {shape}"] if spec.open else []
    return "static, as the contract" + f" (its own: {', '.join(open_ones)})" * bool(open_ones)


def outputs(subject: Subject) -> str:
    """One flat vector, and the next states where the history is in the graph."""
    found = {o.name: o for o in subject.proto.graph.output}
    wanted = subject.model.output_names
    if list(found)[:1] != ["outputs"] or set(found) != set(wanted):
        raise Fail(
            f"{len(found)} output(s): {', '.join(found)}",
            f"return {' and '.join(wanted[:2])}{' ...' * (len(wanted) > 2)}: pack every head into "
            "one vector named outputs (steerlab.openpilot.outputs.pack)",
        )
    shape, kind = dimensions(found["outputs"]), element_type(found["outputs"])
    if len(shape) != 2 or shape[0] != 1 or not isinstance(shape[1], int):
        raise Fail(f"outputs has shape {shape}", "make it (1, N), static")
    subject.length = shape[1]
    if kind not in _TYPES["float32"]:
        raise Fail(f"outputs is {kind}", "make it float32")
    for name, spec in subject.model.states.items():
        later = found[f"next_{name}"]
        if dimensions(later) != spec.shape or element_type(later) not in _TYPES[spec.dtype]:
            raise Fail(
                f"next_{name} is {element_type(later)} {dimensions(later)}, {name} {spec.shape}",
                "return every state with the shape and type in which it comes",
            )
    return f"outputs {shape} {kind}"


def operators(subject: Subject) -> str:
    """Tinygrad, which compiles the graph, has every operator."""
    used = {node.op_type for node in nodes(subject.proto)}
    if bad := sorted(used & TINYGRAD_UNSUPPORTED):
        raise Fail(
            f"tinygrad has no {', '.join(bad)}",
            "write recurrent cells out step by step, and draw no random numbers in the graph",
        )
    known = supported_operators(subject.options.tinygrad_path)
    if bad := sorted(used - known - {f.name for f in subject.proto.functions}):
        raise Fail(f"this tinygrad has no {', '.join(bad)}", "use other operators")
    return f"{len(used)} kinds, all known to tinygrad"


def heads(subject: Subject) -> str:
    """Every head that the consumer needs is there, with a width that it reads."""
    if subject.slices is None or subject.length is None:
        raise Skip("no slices")
    model = subject.model
    if missing := [h for h in model.required if h not in subject.slices]:
        raise Fail(
            f"missing {', '.join(missing)}",
            f"{subject.contract.id} needs all of {', '.join(model.required)} from {model.name}",
        )
    for head in model.widths:
        if head not in subject.slices:
            continue
        width = len(range(*subject.slices[head].indices(subject.length)))
        if not model.accepts(head, width):
            raise Fail(
                f"{head} has {width} values",
                f"{subject.contract.id} reads {' or '.join(map(str, model.widths[head]))}",
            )
        if head == "hidden_state" and (fed := _features_fed(subject)) not in (0, width):
            raise Fail(
                f"hidden_state has {width} values, the network is fed {fed} back",
                "hand back what the network makes: give both the same width",
            )
    return ", ".join(h for h in subject.slices if h in model.widths)


def _features_fed(subject: Subject) -> int:
    """Return how many features of a frame come back to the network, 0 where none do."""
    for name, spec in subject.model.inputs.items():
        if spec.feed == "previous_features" or name == "state_feat_q":
            return math.prod(spec.shape[2:])
    return 0
