"""Make a sequence model in ONNX compute only the last of its positions.

The simulator uses the logits of the last position alone. The selection of that position commutes
with every operation that treats positions one by one, so it can move from the output of the graph
towards its inputs, up to where positions meet; and where they meet in a causal attention, only the
last query has to be answered.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

#: Operations that act on each position alone if their other operands are constants.
_ELEMENTWISE = {
    "Add", "Sub", "Mul", "Div", "Max", "Pow", "Sqrt", "Tanh", "Sigmoid", "Relu", "Erf", "Gelu",
}  # fmt: skip
_LAST_AXIS = {"ReduceMean", "LayerNormalization", "Softmax", "LogSoftmax"}
_AXIS = 1


def keep_last_position(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of ``model`` whose output has one position, the last one.

    Args:
        model: Model with one output (B, T, ...), positions on axis 1.
    """
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    users = Counter(name for node in graph.node for name in node.input)
    constants = {i.name for i in graph.initializer}
    constants |= {n.output[0] for n in graph.node if n.op_type == "Constant"}
    nodes = _position_wise_end(graph, constants, users)
    if not nodes:
        return model  # positions meet at the output itself; the caller takes the last one

    queries = _ask_last_query(graph, makers, users, nodes)
    kept = {name for i in nodes for name in graph.node[i].output}
    border = sorted({s for i in nodes for s in _varying(graph.node[i], constants)} - kept)
    graph.initializer.append(numpy_helper.from_array(np.array([-1]), "last_position"))
    for i in nodes:
        for place, name in enumerate(graph.node[i].input):
            if name in border:
                graph.node[i].input[place] = f"{name}/last"
    selections = {
        name: onnx.helper.make_node("Gather", [name, "last_position"], [f"{name}/last"], axis=_AXIS)
        for name in border
    }
    first = [selections[name] for name in border if name not in makers]  # inputs of the graph
    _insert(graph, first, selections | queries)
    del graph.value_info[:]
    graph.output[0].type.tensor_type.shape.dim[_AXIS].dim_value = 1
    return model


def _varying(node: onnx.NodeProto, constants: set[str]) -> list[str]:
    return [name for name in node.input if name and name not in constants]


def _position_wise_end(
    graph: onnx.GraphProto, constants: set[str], users: Mapping[str, int]
) -> set[int]:
    """Return the nodes between the output and where positions meet, by their place in the graph.

    The walk begins at the output. A tensor is inside if it varies by position and only nodes that
    are inside use it. In reverse order of the graph all users of a tensor come before its maker.
    """
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*graph.value_info, *graph.output)}
    last_axis = {-1, max(ranks.values(), default=3) - 1}
    inside: set[str] = {graph.output[0].name}
    nodes: set[int] = set()
    inner_users: Counter[str] = Counter()
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        name = node.output[0]
        sources = _varying(node, constants)
        by_position = bool(sources) and all(ranks.get(source) == 3 for source in sources)
        complete = inner_users[name] == users.get(name, 0)
        if name in inside and complete and by_position and _acts_alone(node, constants, last_axis):
            nodes.add(index)
            inside.update(sources)
            inner_users.update(sources)
    return nodes


def _acts_alone(node: onnx.NodeProto, constants: set[str], last_axis: set[int]) -> bool:
    """Tell whether a node computes each position from that position alone."""
    if node.op_type in _ELEMENTWISE:
        return True
    if node.op_type == "MatMul":
        return node.input[1] in constants
    if node.op_type in _LAST_AXIS:
        axes = [a.ints or [a.i] for a in node.attribute if a.name in ("axis", "axes")]
        return all(set(a) <= last_axis for a in axes) and len(node.input) <= 3
    return False


def _insert(
    graph: onnx.GraphProto, first: list[onnx.NodeProto], after: Mapping[str, onnx.NodeProto]
) -> None:
    """Put nodes at the beginning of the graph, and others right after the maker of a tensor."""
    ordered = list(first)
    for node in graph.node:
        ordered += [node, *(after[name] for name in node.output if name in after)]
    ordered = [onnx.NodeProto.FromString(n.SerializeToString()) for n in ordered]
    del graph.node[:]
    graph.node.extend(ordered)


def _ask_last_query(
    graph: onnx.GraphProto,
    makers: dict[str, onnx.NodeProto],
    users: Mapping[str, int],
    nodes: set[int],
) -> dict[str, onnx.NodeProto]:
    """Let the attention right below the position-wise part answer the last query only.

    Returns the node that selects it, by the name of the queries. Matches ``Reshape(Transpose(Softmax(Where(masked, -inf, Q K)) V))`` with a causal mask, whose
    last row masks nothing. Anything else is left as it is.
    """
    tensors = {t.name: t for t in graph.initializer}
    for index in nodes:
        node = graph.node[index]
        heads = makers.get(node.input[0])
        if node.op_type != "MatMul" or heads is None or heads.op_type != "Reshape":
            continue
        chain = _upwards(makers, heads, ["Transpose", "MatMul", "Softmax", "Where"])
        if chain is None or any(users[n.output[0]] != 1 for n in (heads, *chain)):
            continue
        _, _, softmax, where = chain
        scores = makers.get(where.input[2])
        product = _first_above(makers, scores, "MatMul") if scores else None
        mask = _square_mask(makers, tensors, where.input[0])
        if product is None or scores is None or mask is None or not mask[..., -1, :].all():
            continue
        width = tensors[node.input[1]].dims[0]
        shape = numpy_helper.from_array(np.array([0, -1, width]), f"{heads.output[0]}/shape")
        graph.initializer.append(shape)
        heads.input[1] = shape.name
        softmax.input[0] = where.input[2]
        query = product.input[0]
        product.input[0] = f"{query}/last_query"
        graph.initializer.append(numpy_helper.from_array(np.array([-1]), f"{query}/place"))
        inputs = [query, f"{query}/place"]
        return {query: onnx.helper.make_node("Gather", inputs, [product.input[0]], axis=2)}
    return {}


def _upwards(
    makers: dict[str, onnx.NodeProto], node: onnx.NodeProto, kinds: list[str]
) -> list[onnx.NodeProto] | None:
    """Return the chain of makers of first inputs, if they are of these kinds."""
    chain = []
    for kind in kinds:
        above = makers.get(node.input[0])
        if above is None or above.op_type != kind:
            return None
        chain.append(above)
        node = above
    return chain


def _first_above(
    makers: dict[str, onnx.NodeProto], node: onnx.NodeProto, kind: str
) -> onnx.NodeProto | None:
    """Return ``node`` or the first of its makers that is of this kind, through scalings only."""
    while node.op_type in ("Mul", "Div"):
        above = makers.get(node.input[0])
        if above is None:
            return None
        node = above
    return node if node.op_type == kind else None


def _square_mask(
    makers: dict[str, onnx.NodeProto], tensors: dict[str, onnx.TensorProto], name: str
) -> Any:
    """Return the stored mask (.., T, T), true where a query sees a key, behind a condition."""
    inverted = False
    while name in makers:
        node = makers[name]
        if node.op_type not in ("Not", "Cast", "Gather", "Slice", "Identity"):
            return None
        inverted ^= node.op_type == "Not"
        name = node.input[0]
    if name not in tensors or not inverted:
        return None
    mask = numpy_helper.to_array(tensors[name])
    return mask if mask.ndim >= 2 and mask.shape[-1] == mask.shape[-2] else None
