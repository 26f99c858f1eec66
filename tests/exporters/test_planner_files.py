"""Planners as files of other programs: the same plans in onnxruntime and tinygrad as in torch."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from steerlab.agents.trc import MlpPlanner, TinyRecursiveControl, TrcConfig
from steerlab.envs.tracking.double_integrator import DoubleIntegrator
from steerlab.envs.tracking.van_der_pol import VanDerPol
from steerlab.errors import InputError
from steerlab.exporters.planner import export_planner
from steerlab.exporters.planner_pickle import pickle_planner
from steerlab.openpilot.engines import session
from steerlab.openpilot.tinygrad import TinygradEngine, missing_compiler

PROBLEM = DoubleIntegrator(steps=6, horizon=2.0, limit=3.0)


@pytest.fixture
def planner() -> TinyRecursiveControl:
    torch.manual_seed(3)
    return TinyRecursiveControl(PROBLEM, TrcConfig(8, 8, 1, 1, 1)).eval()


@pytest.mark.skipif(bool(missing_compiler()), reason=missing_compiler())
@pytest.mark.slow
def test_pickle_plans_what_torch_plans(planner: TinyRecursiveControl, tmp_path: Path) -> None:
    path = tmp_path / "mine_tinygrad.pkl"
    assert pickle_planner(planner, path) < 1e-4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine_tinygrad.json", path.name]
    inputs = json.loads(path.with_suffix(".json").read_text())["inputs"]
    assert set(inputs) == {"initial_state", "target_state", "remaining"}
    states, targets = np.array([[1.0, -0.5], [0.3, 2.0]]), np.array([[0.0, 0.5], [-1.0, 1.0]])
    left = np.array([6.0, 2.0])
    feed = {"initial_state": states, "target_state": targets, "remaining": left}
    with TinygradEngine(path, trust_pickle=True) as engine:
        found = engine.run(feed)["outputs"]
    with torch.no_grad():
        expected = planner(*(torch.tensor(a).float() for a in (states, targets, left)))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    assert not found[1, 2:].any()  # two steps are left


@pytest.mark.slow
def test_fixed_rows_and_metadata(planner: TinyRecursiveControl, tmp_path: Path) -> None:
    path = tmp_path / "three.onnx"
    export_planner(planner, path, rows=3, opset=20, source="mine/best.pt 0123")
    proto = onnx.load(str(path))
    assert next(o.version for o in proto.opset_import if not o.domain) == 20
    told = {entry.key: entry.value for entry in proto.metadata_props}
    assert told["source"] == "mine/best.pt 0123"
    assert json.loads(told["problem"]) | {"limit": 3.0, "steps": 6} == json.loads(told["problem"])
    assert json.loads(told["model"])["latent_dim"] == 8
    assert [i.shape for i in session(path).get_inputs()] == [[3, 2], [3, 2], [3]]


@pytest.mark.slow
def test_a_plain_network_of_a_nonlinear_plant(tmp_path: Path) -> None:
    """It does not simulate the plant, so there is nothing that stands against the export."""
    torch.manual_seed(0)
    model = MlpPlanner(VanDerPol(steps=5, horizon=0.5), 8)
    assert export_planner(model, tmp_path / "m.onnx") < 1e-4
    with pytest.raises(InputError, match="nonlinear"):
        export_planner(TinyRecursiveControl(model.problem), tmp_path / "t.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
