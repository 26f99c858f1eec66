"""Replace the tanh form of GELU in an ONNX graph, written out in seven operations, by one."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Pow", "Tanh"}
_DOMAIN = "com.microsoft"  # onnxruntime's own operations


def fuse_gelu(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of ``model`` in which onnxruntime computes each GELU at once.

    A group of elementwise operations on one tensor counts as a GELU if its values are.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    scalars = _scalars(graph)
    for tanh in [node for node in graph.node if node.op_type == "Tanh"]:
        source = _source(graph, tanh, scalars)
        group = [] if source is None else _group(graph, source, scalars)
        ends = _used_outside(graph, group)
        if source is None or len(ends) != 1 or not _is_gelu(group, source, ends[0], scalars):
            continue
        fused = onnx.helper.make_node("FastGelu", [source], ends, domain=_DOMAIN)
        place = max(i for i, node in enumerate(graph.node) if node in group)
        nodes = [*graph.node[:place], fused, *graph.node[place + 1 :]]
        kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes if n not in group]
        del graph.node[:]
        graph.node.extend(kept)
    if any(node.domain == _DOMAIN for node in graph.node):
        model.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))
    return model


def _scalars(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    """Return the constants of one element."""
    found = {i.name: numpy_helper.to_array(i) for i in graph.initializer if not any(i.dims)}
    for node in graph.node:
        if node.op_type == "Constant":
            value = next((a.t for a in node.attribute if a.name == "value"), None)
            if value is not None and np.prod(value.dims) == 1:
                found[node.output[0]] = numpy_helper.to_array(value)
    return found


def _source(
    graph: onnx.GraphProto, node: onnx.NodeProto, scalars: dict[str, NDArray[Any]]
) -> str | None:
    """Return the one tensor that a node depends on through elementwise operations, if it is one."""
    makers = {name: other for other in graph.node for name in other.output}
    found, waiting = set(), [node]
    while waiting:
        for name in waiting.pop().input:
            maker = makers.get(name)
            if name in scalars:
                continue
            if maker is not None and _takes_scalars(maker, makers, scalars):
                waiting.append(maker)
            else:
                found.add(name)
    return found.pop() if len(found) == 1 else None


def _takes_scalars(
    node: onnx.NodeProto, makers: dict[str, onnx.NodeProto], scalars: dict[str, NDArray[Any]]
) -> bool:
    """Return whether a node is elementwise and combines no tensors that are not of one source."""
    others = [n for n in node.input if n not in scalars]
    return node.op_type in _ELEMENTWISE and all(name in makers for name in others)


def _group(
    graph: onnx.GraphProto, source: str, scalars: dict[str, NDArray[Any]]
) -> list[onnx.NodeProto]:
    """Return the elementwise nodes that depend on ``source`` alone, in order."""
    inside, group = {source}, []
    for node in graph.node:
        wanted = [name for name in node.input if name not in scalars]
        if node.op_type in _ELEMENTWISE and wanted and set(wanted) <= inside:
            inside |= set(node.output)
            group.append(node)
    return group


def _used_outside(graph: onnx.GraphProto, group: list[onnx.NodeProto]) -> list[str]:
    made = {name for node in group for name in node.output}
    used = {name for node in graph.node if node not in group for name in node.input}
    used |= {value.name for value in graph.output}
    return sorted(made & used)


def _is_gelu(
    group: list[onnx.NodeProto], source: str, end: str, scalars: dict[str, NDArray[Any]]
) -> bool:
    """Return whether a group of nodes computes 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    kind, shape = onnx.TensorProto.FLOAT, [None]
    names = {name for node in group for name in node.input} & scalars.keys()
    graph = onnx.helper.make_graph(
        group,
        "group",
        [onnx.helper.make_tensor_value_info(source, kind, shape)],
        [onnx.helper.make_tensor_value_info(end, kind, shape)],
        [numpy_helper.from_array(scalars[name], name) for name in names],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    x = np.linspace(-8, 8, 801, dtype=np.float32)
    found: Any = ReferenceEvaluator(model).run(None, {source: x})
    wanted = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return bool(np.abs(found[0] - wanted).max() < 1e-5)
