"""Driving policies as files: every head and release passes the checks, and no head draws random numbers."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from steerlab.agents.driving import load_driving, save_driving, vision_part
from steerlab.agents.drivingpolicy.checkpoint import load_driving_policy, policy_part
from steerlab.agents.drivingpolicy.network import Diffusion, DrivingPolicy, PolicyDesign
from steerlab.agents.visionnet.network import VisionNet
from steerlab.errors import InputError
from steerlab.experiments.export_policy import read_policy
from steerlab.exporters.openpilot import export_model
from steerlab.exporters.policy import export_policy
from steerlab.exporters.safety import is_unsafe
from steerlab.exporters.verify import FAIL, PASS, Options, verify_export
from steerlab.openpilot.contracts import contract
from steerlab.openpilot.engines import load_network


def policy(head: str = "anchored", steps: int = 2, encoder: str = "gru") -> DrivingPolicy:
    torch.manual_seed(1)
    network = DrivingPolicy(
        "openpilot-0.10.0", PolicyDesign(16, 16, 16, encoder, head, Diffusion(steps))
    )
    with torch.no_grad():
        network.plan_head.adapt(np.random.default_rng(1).normal(0, 0.1, (50, 14)), 0)
    return network.eval()


def checked(network: DrivingPolicy, target: str, folder: Path, vision: str = "") -> dict[str, str]:
    """Export and verify; return the status of each check."""
    done = export_policy(
        network,
        folder,
        "a test",
        target=contract(target),
        vision=vision,
        half=False,
        tinygrad=False,
    )
    name = contract(target).policy_name
    options = Options(metadata=str(done.policy.metadata), tinygrad=False, runs=2)
    found = {c.name: c for c in verify_export(done.onnx, contract(target), name, options)}
    wrong = {n: c.found for n, c in found.items() if c.status == FAIL and n != "latency"}
    assert not wrong
    return {n: c.status for n, c in found.items()}


@pytest.mark.slow
def test_the_diffusion_is_in_the_file(tmp_path: Path) -> None:
    found = checked(policy(steps=2), "openpilot-0.10.0", tmp_path)
    for name in ("torch parity", "plan", "meaning", "operators", "slices", "heads"):
        assert found[name] == PASS
    kinds = {node.op_type for node in onnx.load(tmp_path / "driving_policy.onnx").graph.node}
    assert not kinds & {"RandomNormal", "RandomNormalLike", "RandomUniform", "GRU", "Loop", "Scan"}
    text = next(
        p.value for p in onnx.load(tmp_path / "driving_policy.onnx").metadata_props
        if p.key == "model_checkpoint"
    )  # fmt: skip
    assert is_unsafe(text)
    # The file's five hypotheses are those of the network with its steps, not those of another number.
    inputs = np.load(tmp_path / "driving_policy_probe.npz")
    network = load_network(tmp_path / "driving_policy.onnx")
    row = {n: inputs[f"input/{n}"][0] for n in network.inputs}
    flat = network.engine.run(row)["outputs"]
    for steps in (2, 4):
        other = policy(steps=steps)
        with torch.no_grad():
            named = other(*(torch.as_tensor(row[n]) for n in other.model.inputs))
        ours = named["plan"].reshape(1, 5, 495).numpy()
        away = np.abs(flat[:, :4955].reshape(1, 5, 991)[..., :495] - ours).max()
        assert (away < 1e-3) == (steps == 2)


@pytest.mark.parametrize(
    ("head", "steps", "encoder", "target"),
    [
        pytest.param(
            "anchored", 4, "attention", "sunnypilot-2025-08", marks=pytest.mark.exhaustive
        ),
        pytest.param("anchored", 0, "gru", "openpilot-0.10.0", marks=pytest.mark.exhaustive),
        pytest.param("mdn", 0, "gru", "openpilot-0.10.1", marks=pytest.mark.exhaustive),
        pytest.param("flow", 4, "attention", "openpilot-0.11.0", marks=pytest.mark.exhaustive),
        pytest.param("regression", 0, "gru", "openpilot-0.10.0", marks=pytest.mark.exhaustive),
    ],
)
def test_every_head_and_split_release(
    head: str, steps: int, encoder: str, target: str, tmp_path: Path
) -> None:
    found = checked(policy(head, steps, encoder), target, tmp_path)
    assert found["torch parity"] == found["plan"] == PASS


@pytest.fixture(scope="module")
def vision_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    vision, folder = VisionNet("tiny").eval(), tmp_path_factory.mktemp("vision")
    export_model(vision, vision.contract, vision.model, folder, half=False, tinygrad=False)
    return str(folder / "driving_vision.onnx")


@pytest.mark.parametrize(
    "year",
    [
        pytest.param("2026-06", marks=pytest.mark.exhaustive),
        pytest.param("2026-07", marks=pytest.mark.exhaustive),
    ],
)
def test_a_supercombo_says_what_its_parts_say(year: str, vision_file: str, tmp_path: Path) -> None:
    found = checked(policy(), f"openpilot-supercombo-{year}", tmp_path, vision_file)
    assert found["torch parity"] == PASS
    slices = load_network(tmp_path / "driving_supercombo.onnx").slices
    assert slices["action"].stop - slices["action"].start == 2


def test_a_checkpoint_of_a_pair_is_recognised(tmp_path: Path) -> None:
    first, vision = policy("mdn", 0), VisionNet("tiny")
    path = save_driving(tmp_path / "epoch_0001.pt", vision_part(vision), policy_part(first), {})
    again = read_policy(str(path))
    assert isinstance(again, DrivingPolicy)
    assert again.describe() == first.describe()
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(),
                                                 first.state_dict().values(), strict=True))  # fmt: skip
    half = save_driving(tmp_path / "epoch_0002.pt", vision_part(vision), None, {})
    assert set(load_driving(half)) == {"vision", "policy", "told"}
    with pytest.raises(InputError, match="has no policy yet"):
        load_driving_policy(half)
