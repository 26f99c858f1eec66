"""What is written is what modeld loads."""

import codecs
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from steerlab.errors import InputError
from steerlab.exporters.openpilot import export_model
from steerlab.exporters.sample import SampleNetwork
from steerlab.exporters.verify import Options, failed, verify_export
from steerlab.openpilot.contracts import Contract, Model, contract, contract_ids
from steerlab.openpilot.engines import load_network, session
from steerlab.openpilot.in_graph import HistoryInGraph, Packed, model_with_history
from steerlab.openpilot.metadata import read_metadata
from steerlab.openpilot.outputs import parse
from steerlab.openpilot.probe import read_probe
from steerlab.openpilot.runner import Runner
from steerlab.readers.pickles import read_pickle


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    c = contract("openpilot-0.10.0")
    model = c.model("driving_policy")
    folder = tmp_path_factory.mktemp("policy")
    done = export_model(SampleNetwork(model), c, model, folder, checkpoint="test/1", tinygrad=False)
    assert done.difference < 5e-5
    return folder


def test_the_files(policy: Path) -> None:
    assert {p.name for p in policy.iterdir()} == {
        "driving_policy.onnx",
        "driving_policy_fp16.onnx",
        "driving_policy_metadata.pkl",
        "driving_policy_probe.npz",
    }


def test_onnx_has_the_contract(policy: Path) -> None:
    model = contract("openpilot-0.10.0").model("driving_policy")
    proto = onnx.load(str(policy / "driving_policy.onnx"))
    found = session(policy / "driving_policy.onnx")
    assert {i.name: tuple(i.shape) for i in found.get_inputs()} == {
        n: i.shape for n, i in model.inputs.items()
    }
    assert [(o.name, o.shape, o.type) for o in found.get_outputs()] == [
        ("outputs", [1, 4968], "tensor(float)")
    ]
    properties = {p.key: p.value for p in proto.metadata_props}
    # As openpilot's get_model_metadata.py reads it.
    slices = pickle.loads(codecs.decode(properties["output_slices"].encode(), "base64"))
    assert slices == model.slices
    assert properties["model_checkpoint"] == "test/1"


def test_metadata_is_what_modeld_indexes(policy: Path) -> None:
    with open(policy / "driving_policy_metadata.pkl", "rb") as file:
        metadata = pickle.load(file)
    assert metadata["output_shapes"]["outputs"][1] == 4968
    assert metadata["input_shapes"]["features_buffer"] == (1, 25, 512)
    flat = np.zeros((1, 4968))
    assert flat[:, metadata["output_slices"]["plan"]].shape == (1, 4955)
    read = read_metadata(policy / "driving_policy_metadata.pkl")
    assert read.slices == metadata["output_slices"]


def test_probe_holds_the_meaning(policy: Path) -> None:
    model = contract("openpilot-0.10.0").model("driving_policy")
    probe = read_probe(policy / "driving_policy_probe.npz", model)
    parsed = parse(model.slices, probe.outputs)
    for name, values in probe.meaning.items():
        np.testing.assert_allclose(parsed[name], values, rtol=1e-4, atol=1e-6, err_msg=name)
    assert {"plan_hypotheses", "plan_weights", "desire_state"} <= set(probe.meaning)


def test_float16_is_close(policy: Path) -> None:
    model = contract("openpilot-0.10.0").model("driving_policy")
    probe = read_probe(policy / "driving_policy_probe.npz", model)
    half = session(policy / "driving_policy_fp16.onnx")
    for k in range(probe.count):
        (found,) = half.run(None, probe.row(model, k))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[0], probe.outputs[k], atol=0.2, rtol=5e-3)


def test_it_drives(policy: Path) -> None:
    runner = Runner("openpilot-0.10.0", load_network(policy / "driving_policy.onnx"), rows=2)
    step = runner.step(features=np.zeros((2, 512)), v_ego=15.0)
    assert step is not None
    assert step.raw.shape == (2, 4968)
    assert np.all(np.abs(step.command.curvature) < 0.02)


EVERY = [(id, name) for id in contract_ids() for name in contract(id).model_names]


@pytest.mark.slow
@pytest.mark.parametrize(("id", "name"), EVERY)
def test_every_generation_exports_and_verifies(id: str, name: str, tmp_path: Path) -> None:
    c = contract(id)
    model = c.model(name)
    network: nn.Module = SampleNetwork(model)
    if model.states:
        network, model = history_inside(c)
    done = export_model(network, c, model, tmp_path, tinygrad=False)
    assert done.difference < 5e-5
    assert read_metadata(done.metadata).output_shapes["outputs"] == (1, model.length)
    assert not failed(verify_export(done.onnx, c, name, Options(tinygrad=False, runs=2)))


def history_inside(target: Contract) -> tuple[nn.Module, Model]:
    """Return a network that keeps its own history, and its model with the sizes it has."""
    old = contract("openpilot-supercombo-2026-06").model("driving_supercombo")
    model = model_with_history(target, old)
    inner = Packed(SampleNetwork(old), model)
    return HistoryInGraph(inner, model.slices["hidden_state"]), model


def test_an_ignored_input_stays_in_the_graph(tmp_path: Path) -> None:
    class OnlyFeatures(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(512, 1000)

        def forward(self, desire: Tensor, traffic: Tensor, features: Tensor) -> Tensor:
            return self.layer(features[:, -1])

    c = contract("openpilot-0.10.1")
    model = c.model("driving_policy")
    done = export_model(OnlyFeatures(), c, model, tmp_path, tinygrad=False, half=False)
    graph = onnx.load(str(done.onnx)).graph
    used = {name for node in graph.node for name in node.input}
    assert set(model.inputs) <= used


def test_a_wrong_length_is_refused(tmp_path: Path) -> None:
    class Short(nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return torch.zeros(1, 999)

    c = contract("openpilot-0.10.1")
    with pytest.raises(InputError, match=r"needs \(1, 1000\)"):
        export_model(Short(), c, c.model("driving_policy"), tmp_path)
    assert not list(tmp_path.iterdir())


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_restricted_loader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"import builtins\.print"):
        read_pickle(pickle.dumps({"a": Evil()}), "it")
    assert capsys.readouterr().out == ""
    assert read_pickle(pickle.dumps({"a": slice(1, 2)}), "it") == {"a": slice(1, 2)}
    with pytest.raises(InputError, match="not a readable pickle"):
        read_pickle(b"nonsense", "it")
    path = tmp_path / "m_metadata.pkl"
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(InputError, match="holds a list"):
        read_metadata(path)
    with pytest.raises(InputError, match="no metadata file"):
        read_metadata(tmp_path / "none.pkl")
