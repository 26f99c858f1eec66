"""The study's table and exit status."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from steerlab.experiments.verify_export import main
from steerlab.exporters.metadata import metadata_of, onnx_properties, write_metadata
from steerlab.openpilot.contracts import contract


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a graph with the contract of the 0.10.1 policy and no weights."""
    spec = contract("openpilot-0.10.1").model("driving_policy")
    nodes = [
        helper.make_node("ReduceMean", [name], [f"{name}_mean"], keepdims=0) for name in spec.inputs
    ]
    nodes.append(helper.make_node("Sum", [f"{name}_mean" for name in spec.inputs], ["sum"]))
    nodes.append(helper.make_node("Mul", ["sum", "weights"], ["outputs"]))
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "policy",
            [
                helper.make_tensor_value_info(i.name, TensorProto.FLOAT, i.shape)
                for i in spec.inputs.values()
            ],
            [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, [1, spec.length])],
            [numpy_helper.from_array(np.zeros((1, spec.length), np.float32), "weights")],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    metadata = metadata_of(spec, "test")
    helper.set_model_props(proto, onnx_properties(metadata))
    onnx.save(proto, str(tmp_path / "driving_policy.onnx"))
    write_metadata(tmp_path / "driving_policy_metadata.pkl", metadata)
    return tmp_path / "driving_policy.onnx"


def arguments(model: Path, **options: str) -> list[str]:
    options = {"contract": "openpilot-0.10.1", "tinygrad": "false", "untrained": "true"} | options
    chosen = [f"{name}={value}" for name, value in options.items()]
    return [f"model={model}", f"output={model.parent / 'out'}", *chosen]


def test_a_drop_in(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments(model))
    out = capsys.readouterr().out
    assert "drop-in for openpilot-0.10.1: ONNX and metadata only" in out
    checks = json.loads((model.parent / "out" / "checks.json").read_text())
    assert {c["status"] for c in checks if c["name"] != "road"} == {"pass", "skip"}


def test_a_failure_ends_with_an_error(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="is no drop-in"):
        main(arguments(model, contract="openpilot-0.10.0"))
    out = " ".join(capsys.readouterr().out.split())
    assert "missing desire, lateral_control_params" in out
    assert "mend:" in out


def test_bad_options_are_named(model: Path) -> None:
    with pytest.raises(SystemExit, match="did you mean 'openpilot-0"):
        main(arguments(model, contract="openpilot-0.10"))
    with pytest.raises(SystemExit, match="there is no file"):
        main(arguments(model.with_name("none.onnx")))
    with pytest.raises(SystemExit, match="model= is missing"):
        main([f"output={model.parent / 'out'}"])
