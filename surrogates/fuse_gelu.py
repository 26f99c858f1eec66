"""Replace GELU written out as ten elementwise nodes by onnxruntime's one fused operator.

Each of those nodes reads and writes the widest activations of a transformer; fused, they are read
and written once. Results differ from the written-out form in the last bits.
"""

import math

import numpy as np
import onnx
from onnx import numpy_helper

_CUBE = 0.044715  # of the tanh form: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))


def fuse_gelu(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of ``model`` with every tanh-form GELU fused; the rest is left as it is."""
    fused = onnx.ModelProto()
    fused.CopyFrom(model)
    graph = _Graph(fused.graph)
    for node in list(fused.graph.node):
        found = _match(graph, node) if node.op_type == "Tanh" else None
        if found:
            source, last = found
            last.CopyFrom(
                onnx.helper.make_node(
                    "FastGelu", [source], list(last.output), name=last.name, domain="com.microsoft"
                )
            )
    if any(n.op_type == "FastGelu" for n in fused.graph.node):
        fused.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    _drop_unused(fused.graph)
    return fused


class _Graph:
    """Who makes and who uses each tensor, and which are scalar constants."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.maker = {name: node for node in graph.node for name in node.output}
        self.users: dict[str, list[onnx.NodeProto]] = {}
        self.scalar: dict[str, float] = {}
        for node in graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._note(node.output[0], numpy_helper.to_array(node.attribute[0].t))
        for tensor in graph.initializer:
            self._note(tensor.name, numpy_helper.to_array(tensor))

    def _note(self, name: str, value: np.ndarray) -> None:
        if value.size == 1 and value.dtype == np.float32:
            self.scalar[name] = float(value.reshape(()))

    def other(self, node: onnx.NodeProto | None, kind: str, value: float) -> str | None:
        """Return x if ``node`` is ``kind`` (Add or Mul) of x and the constant ``value``."""
        if node is None or node.op_type != kind:
            return None
        a, b = node.input
        for x, constant in ((a, b), (b, a)):
            if math.isclose(self.scalar.get(constant, math.nan), value, rel_tol=1e-5):
                return x
        return None

    def only_user(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        users = self.users.get(node.output[0], [])
        return users[0] if len(users) == 1 else None


def _match(graph: _Graph, tanh: onnx.NodeProto) -> tuple[str, onnx.NodeProto] | None:
    """Return the input of the GELU around ``tanh`` and the node that gives its output."""
    total = graph.other(graph.maker.get(tanh.input[0]), "Mul", math.sqrt(2 / math.pi))
    add = graph.maker.get(total or "")
    if add is None or add.op_type != "Add":
        return None
    for x, cubic in (tuple(add.input), tuple(add.input)[::-1]):
        cube = graph.maker.get(graph.other(graph.maker.get(cubic), "Mul", _CUBE) or "")
        if cube is None or cube.op_type != "Mul" or x not in cube.input:
            continue
        square = graph.maker.get(next((n for n in cube.input if n != x), ""))
        if square is None or square.op_type != "Mul" or set(square.input) != {x}:
            continue
        plus_one = graph.only_user(tanh)
        if graph.other(plus_one, "Add", 1.0) != tanh.output[0]:
            continue
        assert plus_one is not None
        product = graph.only_user(plus_one)
        if product is None or product.op_type != "Mul" or x not in product.input:
            continue
        half = graph.only_user(product)
        if graph.other(half, "Mul", 0.5) == product.output[0]:
            assert half is not None
            return x, half
    return None


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes whose results nobody uses any more."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
            needed |= set(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
