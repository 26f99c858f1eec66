"""Let a softmax in front of a product be divided by its sum behind it, where there is less to divide.

Attention is ``Softmax(scores) @ values``. A softmax of short rows spends most of its time on each row's
largest score, which it subtracts so that no exponential overflows. Without that there are three quick
operations on whole tensors, ``(exp(scores) @ values) / sum(exp(scores))``, the same number but for
rounding while no score is above 88; beyond, the result is not finite, and whoever runs the graph has to
look.
"""

from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper

_AXES = "late_softmax/axes"
_OPSET = 13  # from here on a softmax has one axis, and ReduceSum takes its axes as an input


def divide_late(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of ``model`` in which no softmax over the last axis stands in front of a product."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    if any(opset.domain == "" and opset.version < _OPSET for opset in model.opset_import):
        return model
    users = Counter(name for node in graph.node for name in node.input)
    users.update(output.name for output in graph.output)
    products = {node.input[0]: node for node in graph.node if node.op_type == "MatMul"}
    nodes: list[onnx.NodeProto] = []
    changed = set()
    for node in graph.node:
        name = node.output[0]
        if node.op_type == "Softmax" and _last_axis(node) and users[name] == 1 and name in products:
            nodes.append(helper.make_node("Exp", [node.input[0]], [name]))
            nodes.append(helper.make_node("ReduceSum", [name, _AXES], [f"{name}/sum"], keepdims=1))
            changed.add(name)
        elif node.op_type == "MatMul" and node.input[0] in changed:
            nodes.append(helper.make_node("MatMul", node.input, [f"{name}/undivided"]))
            sums = f"{node.input[0]}/sum"
            nodes.append(helper.make_node("Div", [f"{name}/undivided", sums], [name]))
        else:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    if changed:
        graph.initializer.append(numpy_helper.from_array(np.array([-1]), _AXES))
        del graph.node[:]
        graph.node.extend(nodes)
    return model


def _last_axis(softmax: onnx.NodeProto) -> bool:
    axes = [a.i for a in softmax.attribute if a.name == "axis"]
    return axes in ([], [-1])
