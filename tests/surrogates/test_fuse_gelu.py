"""Fusing GELU keeps what a graph computes, and touches nothing else."""

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from steerlab.surrogates.fuse_gelu import fuse_gelu
from steerlab.surrogates.plant import read_model


def written_out(half: float = 0.5) -> onnx.ModelProto:
    scalars = {"cube": 0.044715, "scale": math.sqrt(2 / math.pi), "one": 1.0, "half": half}
    steps = [
        ("Mul", "x", "x", "square"),
        ("Mul", "x", "square", "cubed"),
        ("Mul", "cube", "cubed", "small"),
        ("Add", "x", "small", "sum"),
        ("Mul", "scale", "sum", "inner"),
        ("Tanh", "inner", "", "tanh"),
        ("Add", "one", "tanh", "shifted"),
        ("Mul", "x", "shifted", "product"),
        ("Mul", "half", "product", "y"),
    ]
    nodes = [helper.make_node(op, [n for n in (a, b) if n], [out]) for op, a, b, out in steps]
    tensors = [numpy_helper.from_array(np.array(v, np.float32), k) for k, v in scalars.items()]
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


def test_one_node_with_the_same_values() -> None:
    x = np.linspace(-8, 8, 2001, dtype=np.float32)
    model = written_out()
    fused = fuse_gelu(model)
    assert [n.op_type for n in fused.graph.node] == ["FastGelu"]
    assert len(model.graph.node) == 9
    np.testing.assert_allclose(run(fused, x), run(model, x), atol=2e-6)


def test_what_only_looks_like_it_stays() -> None:
    other = written_out(half=0.4)
    assert [n.op_type for n in fuse_gelu(other).graph.node] == [n.op_type for n in other.graph.node]


@pytest.mark.parametrize("kind", ["FastGelu", "Tanh"])
def test_all_of_commas_model(shared: Path, kind: str) -> None:
    fused = fuse_gelu(read_model(shared / "tinyphysics/tinyphysics.onnx"))
    count = sum(n.op_type == kind for n in fused.graph.node)
    assert count == (4 if kind == "FastGelu" else 0)
