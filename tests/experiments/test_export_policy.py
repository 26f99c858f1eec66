"""export-policy: one checkpoint for every generation, as a policy, as a pair, and as one graph."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from steerlab.agents.policynet.model import PolicyNet, PolicySize
from steerlab.agents.policynet.port import PortedPolicy
from steerlab.agents.policynet.train import load_policy, save_policy
from steerlab.experiments import export_policy
from steerlab.exporters.openpilot import export_model
from steerlab.exporters.sample import SampleNetwork
from steerlab.openpilot.contracts import contract
from steerlab.openpilot.engines import load_network
from steerlab.openpilot.metadata import read_metadata
from steerlab.openpilot.outputs import parse
from steerlab.openpilot.runner import Runner
from steerlab.readers.graphs import forget_hash

UNSAFE = "must not steer a car"


def saved(path: Path, id: str = "openpilot-0.10.0", features: str = "KinematicDriver-v0") -> Path:
    """Write the checkpoint of a policy whose plans are as smooth as trained ones."""
    torch.manual_seed(0)
    network = PolicyNet(id, PolicySize(8, 8, 8)).eval()
    with torch.no_grad():
        network.heads.weight *= 0.1
        network.read.weight *= 0.01
    network.features = features
    save_policy(path, network)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("run") / "policy_model.pth")


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vision network with names of its own, as the releases before 0.11.0 allow."""
    release = contract("openpilot-0.10.0")
    model = release.model("driving_vision")
    folder = tmp_path_factory.mktemp("vision")
    done = export_model(
        SampleNetwork(model),
        release,
        model,
        folder,
        checkpoint="vision/7",
        half=False,
        tinygrad=False,
    )
    proto = onnx.load(str(done.onnx))
    names = {"img": "input_imgs", "big_img": "big_input_imgs"}
    for value in proto.graph.input:
        value.name = names[value.name]
    for node in proto.graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
    forget_hash(proto)
    onnx.save(proto, str(done.onnx))
    return done.onnx


def export(checkpoint: Path, output: Path, *arguments: str) -> None:
    try:
        export_policy.main(
            [f"checkpoint={checkpoint}", "tinygrad=none", "half=false", "check=false",
             f"output={output}", *arguments]
        )  # fmt: skip
    except SystemExit as stop:  # the message is what a person sees
        raise AssertionError(stop.code) from stop


def property_of(path: Path, name: str) -> str:
    return {p.key: p.value for p in onnx.load(str(path)).metadata_props}[name]


@pytest.mark.slow
def test_for_another_release_at_paths_of_ones_own(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [f"onnx={tmp_path / 'a' / 'mine.onnx'}", f"metadata={tmp_path / 'b' / 'mine.pkl'}"]
    export(checkpoint, tmp_path / "out", "contract=openpilot-0.10.1", *where)
    model = contract("openpilot-0.10.1").model("driving_policy", heads={"plan": 4955})
    found = read_metadata(tmp_path / "b" / "mine.pkl")
    assert found.input_shapes == {n: i.shape for n, i in model.inputs.items()}
    assert found.slices["plan"] == slice(0, 4955)
    network = load_network(tmp_path / "a" / "mine.onnx")
    assert set(network.inputs) == {"desire_pulse", "traffic_convention", "features_buffer"}
    step = Runner("openpilot-0.10.1", network).step(features=np.zeros((1, 512)), v_ego=10.0)
    assert step is not None
    text = " ".join(capsys.readouterr().out.split())
    assert "It must not steer a car." in text
    assert "statement about the interface, not about the road" in text
    assert "trained for openpilot-0.10.0, written for openpilot-0.10.1" in text
    for told in (found.checkpoint, property_of(tmp_path / "a" / "mine.onnx", "model_checkpoint")):
        assert UNSAFE in told
        assert "KinematicDriver-v0" in told
        assert checkpoint.parent.name in told


@pytest.mark.slow
def test_by_default_for_its_own_release(checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, tmp_path)
    assert (tmp_path / "driving_policy_metadata.pkl").exists()
    policy = load_policy(checkpoint)
    network = load_network(tmp_path / "driving_policy.onnx")
    assert set(network.inputs) == set(policy.model.inputs)
    rng = np.random.default_rng(0)
    feeds = {n: rng.normal(size=i.shape).astype(np.float32) for n, i in policy.model.inputs.items()}
    with torch.no_grad():
        wanted = policy(*(torch.as_tensor(feeds[n]) for n in policy.model.inputs))
    found = parse(network.slices, network.engine.run(feeds)["outputs"])
    np.testing.assert_allclose(
        found["desired_curvature"], wanted["desired_curvature"], rtol=1e-4, atol=1e-6
    )


@pytest.mark.slow
def test_a_matched_pair(checkpoint: Path, vision: Path, tmp_path: Path) -> None:
    export(checkpoint, tmp_path, "contract=openpilot-0.11.0", f"vision={vision}")
    camera_network = load_network(tmp_path / "driving_vision.onnx")
    assert list(camera_network.inputs) == ["img", "big_img"]  # which 0.11.0 demands
    images = {n: np.random.default_rng(0).integers(0, 256, s).astype(np.uint8)
              for n, s in camera_network.inputs.items()}  # fmt: skip
    before = load_network(vision)
    renamed = {"input_imgs": images["img"], "big_input_imgs": images["big_img"]}
    np.testing.assert_array_equal(
        camera_network.engine.run(images)["outputs"], before.engine.run(renamed)["outputs"]
    )
    told = [
        property_of(tmp_path / f"driving_{n}.onnx", "model_checkpoint")
        for n in ("policy", "vision")
    ]
    pairs = {text.rpartition("pair ")[2] for text in told}
    assert len(pairs) == 1
    assert all(UNSAFE in text for text in told)
    assert told[1].startswith("vision/7; with ")
    found = read_metadata(tmp_path / "driving_vision_metadata.pkl")
    assert found.input_shapes == {"img": (1, 12, 128, 256), "big_img": (1, 12, 128, 256)}
    assert found.slices["hidden_state"] == slice(1022, 1534)
    runner = Runner(
        "openpilot-0.11.0", load_network(tmp_path / "driving_policy.onnx"), vision=camera_network
    )
    planes = np.zeros((1, 6, 128, 256), np.uint8)
    assert runner.step(image=planes, wide_image=planes, v_ego=10.0) is not None


def parts_say(vision: Path, tail: Any, frames: list[Any], id: str) -> list[Any]:
    """Run vision network and policy one after the other, in the plainest way, frame by frame."""
    camera_network = load_network(vision)
    empty = np.zeros((1, 6, 128, 256), np.uint8)
    narrow, wide = [empty] * 5, [empty] * 5
    hidden, pulses = [np.zeros(512, np.float32)] * 96, [np.zeros(8, np.float32)] * 100
    answers, previous = [], 0
    for image, wide_image, desire in frames:
        narrow, wide = [*narrow[1:], image], [*wide[1:], wide_image]
        pulse = np.zeros(8, np.float32)
        pulse[desire] = float(desire not in (0, previous))
        previous, pulses = desire, [*pulses[1:], pulse]
        seen = camera_network.engine.run(
            {
                "input_imgs": np.concatenate([narrow[0], narrow[4]], 1),
                "big_input_imgs": np.concatenate([wide[0], wide[4]], 1),
            }
        )["outputs"][0]
        own = seen[camera_network.slices["hidden_state"]]
        window = np.array([hidden[4 * k] for k in range(24)] + [own])
        named = {
            "desire": np.array([np.max(pulses[4 * k : 4 * k + 4], axis=0) for k in range(25)]),
            "traffic_convention": np.array([1.0, 0.0]),
            "action_t": np.array([0.2 + 0.075, 0.15 + 0.3 + 0.075]),
        }
        with torch.no_grad():
            given = {n: torch.as_tensor(v, dtype=torch.float32)[None] for n, v in named.items()}
            said = tail.tensors(tail.read(torch.as_tensor(window)[None].float(), given))
        hidden = [*hidden[1:], own]
        answers.append((said["plan"][0].numpy(), seen[camera_network.slices["lane_lines"]][:264]))
    return answers


@pytest.mark.parametrize(
    "month",
    [
        pytest.param("06", marks=pytest.mark.slow),
        pytest.param("07", marks=pytest.mark.slow),
        pytest.param("09", marks=pytest.mark.slow),
    ],
)
def test_one_graph_with_a_stated_vision_network(
    month: str, checkpoint: Path, vision: Path, tmp_path: Path
) -> None:
    id = f"openpilot-supercombo-2026-{month}"
    export(checkpoint, tmp_path, f"contract={id}", f"vision={vision}")
    file = tmp_path / "driving_supercombo.onnx"
    network = load_network(file)
    release = contract(id)
    assert list(network.inputs) == list(release.model("driving_supercombo").inputs)
    rng = np.random.default_rng(1)
    frames = [(*rng.integers(0, 256, (2, 1, 6, 128, 256)).astype(np.uint8), (0, 3, 3)[t % 3])
              for t in range(7)]  # fmt: skip
    runner = Runner(release, network)
    wanted = parts_say(vision, PortedPolicy(load_policy(checkpoint), release), frames, id)
    for (image, wide, desire), (plan, lines) in zip(frames, wanted, strict=True):
        step = runner.step(image=image, wide_image=wide, desire=desire, v_ego=9.0)
        assert step is not None
        np.testing.assert_allclose(step.outputs["plan"][0], plan, rtol=1e-3, atol=1e-3)
        found = step.outputs["lane_lines"][0].reshape(-1)
        np.testing.assert_allclose(found, lines, rtol=1e-4, atol=1e-4)
    assert UNSAFE in property_of(file, "model_checkpoint")


@pytest.mark.slow
def test_a_graph_of_both_passes_the_checks(checkpoint: Path, vision: Path, tmp_path: Path) -> None:
    where = [f"checkpoint={checkpoint}", "contract=openpilot-supercombo-2026-07"]
    export_policy.main([*where, f"vision={vision}", "tinygrad=none", f"output={tmp_path}"])


@pytest.mark.exhaustive
def test_a_pair_passes_the_checks_but_one(checkpoint: Path, vision: Path, tmp_path: Path) -> None:
    """Its weights are random: the plan does not steer as its other head says, and that is told."""
    where = [f"checkpoint={checkpoint}", "contract=openpilot-0.10.1", f"vision={vision}"]
    with pytest.raises(SystemExit, match=r"^1 checks failed: steering$"):
        export_policy.main([*where, "tinygrad=none", f"output={tmp_path}"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["checkpoint="], "checkpoint= is missing"),
        (["checkpoint=no.pth"], "no checkpoint"),
        (["contract=mine"], "unknown contract"),
        (["contract=openpilot-supercombo-2026-07"], "give vision="),
        (["vision=no.onnx"], "there is no file"),
        (["tinygrad_path=."], "no package tinygrad"),
    ],
)
def test_refuses(arguments: list[str], words: str, checkpoint: Path, tmp_path: Path) -> None:
    first = [] if arguments[0].startswith("checkpoint") else [f"checkpoint={checkpoint}"]
    with pytest.raises(SystemExit, match=words):
        export_policy.main([*first, *arguments, "tinygrad=none", f"output={tmp_path}"])


@pytest.mark.slow
def test_a_policy_file_is_no_vision_network(checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, tmp_path / "policy")
    file = tmp_path / "policy" / "driving_policy.onnx"
    with pytest.raises(AssertionError, match="is no vision network"):
        export(checkpoint, tmp_path / "out", f"vision={file}")
    assert not list((tmp_path / "out").glob("*.onnx"))
