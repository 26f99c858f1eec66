"""Constant tensors of an ONNX graph, whether the exporter folded them or left them to be computed."""

from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

_DRAWS = {"RandomNormal", "RandomUniform", "Multinomial", "Bernoulli"}


def constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Return every tensor of a graph that depends on no input, by name.

    What an exporter stores and what it leaves to be computed at run time (transposed, cut or joined
    weights) depends on its version; here it makes no difference.
    """
    graph = model.graph
    found = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    known, nodes = set(found), []
    for node in graph.node:
        inner = any(a.HasField("g") for a in node.attribute)  # a loop or a branch
        if set(node.input) - {""} <= known and node.op_type not in _DRAWS and not inner:
            nodes.append(node)
            known |= set(node.output)
    names = [name for node in nodes for name in node.output if name]
    if not names:
        return found
    outputs = [onnx.ValueInfoProto(name=name) for name in names]
    part = onnx.helper.make_graph(nodes, "constants", [], outputs, graph.initializer)
    evaluator = ReferenceEvaluator(
        onnx.helper.make_model(part, opset_imports=model.opset_import, functions=model.functions)
    )
    values: Any = evaluator.run(None, {})
    return found | dict(zip(names, values, strict=True))
