"""Pickles that modeld could load, made and run in fresh processes."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from steerlab.errors import InputError
from steerlab.exporters.openpilot import export_model
from steerlab.exporters.sample import SampleNetwork
from steerlab.exporters.tinygrad import compile_tinygrad
from steerlab.exporters.verify import Options, failed, verify_export
from steerlab.openpilot import tinygrad
from steerlab.openpilot.contracts import TINYGRAD_UNSUPPORTED, contract
from steerlab.openpilot.engines import load_network, session
from steerlab.openpilot.runner import Runner
from steerlab.openpilot.tinygrad import (
    TinygradEngine,
    holds_jit,
    missing_compiler,
    supported_operators,
)

needs_clang = pytest.mark.skipif(bool(missing_compiler()), reason=missing_compiler())


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Return a graph of an image and a vector."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, 3)), "b": rng.normal(size=3)}
    nodes = [
        helper.make_node("Cast", ["img"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real"], ["mean"], keepdims=0),
        helper.make_node("Gemm", ["x", "w", "b"], ["y"]),
        helper.make_node("Tanh", ["y"], ["t"]),
        helper.make_node("Add", ["t", "mean"], ["outputs"]),
    ]
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "small",
            [
                helper.make_tensor_value_info("img", TensorProto.UINT8, [1, 2, 3]),
                helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4]),
            ],
            [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, [1, 3])],
            [numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.save(proto, str(tmp_path / "m.onnx"))
    return tmp_path / "m.onnx"


@needs_clang
@pytest.mark.slow
def test_pickle_runs_in_a_fresh_process(graph: Path) -> None:
    path = graph.with_name("m_tinygrad.pkl")
    info = compile_tinygrad(graph, path)
    assert info["inputs"] == {"img": ["uint8", info["device"]], "x": ["float32", "NPY"]}
    assert json.loads(path.with_suffix(".json").read_text()) == info
    assert holds_jit(path)
    rng = np.random.default_rng(1)
    inputs: dict[str, Any] = {
        "img": rng.integers(0, 256, (5, 2, 3)).astype(np.uint8),
        "x": rng.normal(size=(5, 4)).astype(np.float32),
    }
    reference = session(graph)
    expected = [
        reference.run(None, {n: a[i : i + 1] for n, a in inputs.items()})[0][0] for i in range(5)
    ]
    with TinygradEngine(path, trust_pickle=True) as engine:
        found = engine.run(inputs)["outputs"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert len(engine.seconds) == 5


def test_a_pickle_is_not_loaded_without_trust(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trust_pickle=true"):
        TinygradEngine(tmp_path / "m.pkl")


def test_what_is_no_jit(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    for contents in ({"w": np.zeros(3)}, [1, 2], "TinyJit"):
        path.write_bytes(pickle.dumps(contents))
        assert not holds_jit(path)
    path.write_bytes(b"PK\x03\x04 not a pickle")
    assert not holds_jit(path)


def test_operators() -> None:
    known = supported_operators()
    assert {"Gemm", "LayerNormalization", "Softmax", "Split"} <= known
    assert not known & TINYGRAD_UNSUPPORTED


def test_missing_clang_says_how_to_get_it(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tinygrad.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="apt install clang"):
        compile_tinygrad(graph, tmp_path / "m.pkl")
    assert not (tmp_path / "m.pkl").exists()


@needs_clang
def test_errors_of_tinygrad_are_shown(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="tinygrad cannot capture"):
        compile_tinygrad(tmp_path / "bad.onnx", tmp_path / "m.pkl")
    with pytest.raises(InputError, match="no package tinygrad"):
        compile_tinygrad(tmp_path / "bad.onnx", tmp_path / "m.pkl", tinygrad_path=tmp_path)


@needs_clang
@pytest.mark.slow
def test_a_whole_policy(tmp_path: Path) -> None:
    c = contract("openpilot-0.10.0")
    model = c.model("driving_policy")
    done = export_model(SampleNetwork(model), c, model, tmp_path)
    assert done.tinygrad is not None
    results = verify_export(done.onnx, c, options=Options(trust_pickle=True, runs=5))
    assert not failed(results)
    status = {r.name: r.status for r in results}
    assert status["tinygrad pickle"] == status["tinygrad"] == "pass"
    networks = [load_network(done.onnx, engine) for engine in ("onnxruntime", "tinygrad")]
    runners = [Runner(c, network) for network in networks]
    rng = np.random.default_rng(0)
    for _ in range(20):
        features = rng.normal(size=(1, 512)).astype(np.float32)
        steps = [r.step(features=features, v_ego=15.0) for r in runners]
        assert steps[0] is not None
        assert steps[1] is not None
        np.testing.assert_allclose(steps[1].raw, steps[0].raw, rtol=1e-4, atol=1e-4)
    engine = networks[1].engine
    assert isinstance(engine, TinygradEngine)
    engine.close()
