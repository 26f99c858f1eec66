"""A vision network's files pass every check, for its own release and for others with the same heads."""

from pathlib import Path

import numpy as np
import pytest
import torch

from steerlab.agents.driving import save_driving, vision_part
from steerlab.agents.visionnet.network import SIZES, VisionNet, VisionSize
from steerlab.errors import InputError
from steerlab.experiments import export_vision as study
from steerlab.exporters.safety import is_unsafe
from steerlab.exporters.verify import Options, failed, verify_export
from steerlab.exporters.vision import export_vision
from steerlab.openpilot.contracts import contract
from steerlab.openpilot.engines import OnnxEngine
from steerlab.openpilot.metadata import read_metadata
from steerlab.seeds import initial_weights


@pytest.fixture(scope="module")
def network() -> VisionNet:
    SIZES["mini"] = VisionSize((4, 4, 4, 4), (1, 1, 1, 1), 2, 4)
    with initial_weights(0):
        found = VisionNet("mini").eval()
    found.set_units({"pose": torch.arange(6.0)}, {"lane_lines": torch.full((4, 33, 2), 3.0)})
    return found


@pytest.mark.parametrize(
    "release",
    [
        "openpilot-0.10.0",
        pytest.param("openpilot-0.11.0", marks=pytest.mark.slow),
        pytest.param("sunnypilot-2025-08", marks=pytest.mark.slow),
        pytest.param("openpilot-0.10.1", marks=pytest.mark.slow),
    ],
)
def test_every_release_with_a_vision_network(
    network: VisionNet, tmp_path: Path, release: str
) -> None:
    target = contract(release)
    done = export_vision(network, tmp_path, "mine/epoch_0001", target=target, tinygrad=False)
    checks = verify_export(done.onnx, target, "", Options(tinygrad=False, runs=3))
    assert not failed(checks), [(c.name, c.found) for c in failed(checks)]
    assert {c.status for c in checks if c.name in ("torch parity", "meaning", "float16")} == {
        "pass"
    }
    metadata = read_metadata(done.metadata)
    assert is_unsafe(metadata.checkpoint)
    assert "mine/epoch_0001" in metadata.checkpoint
    # A lead of 102 values makes 1536 in all of these releases.
    assert metadata.slices["hidden_state"] == slice(1022, 1534)
    rng = np.random.default_rng(0)
    images = {n: rng.integers(0, 256, (1, 12, 128, 256)).astype(np.uint8)
              for n in ("img", "big_img")}  # fmt: skip
    found = OnnxEngine(done.onnx).run(images)["outputs"]
    with torch.no_grad():
        wanted = network(*(torch.as_tensor(v) for v in images.values()))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_forms_that_do_not_fit_are_refused(network: VisionNet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="export-policy as vision="):
        export_vision(network, tmp_path, "x", target=contract("openpilot-supercombo-2026-06"))
    with initial_weights(0):
        wide = VisionNet("mini", "openpilot-0.10.1")
    with pytest.raises(InputError, match="lead=144"):
        export_vision(wide, tmp_path, "x", target=contract("openpilot-0.10.0"))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("tinygrad", ["none", pytest.param("t.pkl", marks=pytest.mark.exhaustive)])
def test_the_study_puts_files_where_it_is_told(
    network: VisionNet, tmp_path: Path, capsys: pytest.CaptureFixture[str], tinygrad: str
) -> None:
    path = tmp_path / "mine" / "artifacts" / "checkpoints" / "epoch_0007.pt"
    save_driving(path, vision_part(network), None, {"epoch": 7})
    pickle = tinygrad if tinygrad == "none" else tmp_path / tinygrad
    options = [f"onnx={tmp_path / 'v.onnx'}", f"metadata={tmp_path / 'm.pkl'}"]
    study.main([f"checkpoint={path}", *options, f"tinygrad={pickle}", f"output={tmp_path / 'out'}"])
    said = capsys.readouterr().out
    assert "must not steer a car" in said
    assert "mine/epoch_0007" in " ".join(said.split())
    assert (tmp_path / "v.onnx").is_file()
    assert (tmp_path / "m.pkl").is_file()
    assert (tmp_path / "t.pkl").is_file() == (tinygrad != "none")
    with pytest.raises(SystemExit, match="checkpoint= is missing"):
        study.main([f"output={tmp_path / 'out2'}"])
