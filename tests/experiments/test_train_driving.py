"""train-driving: what it writes, and what it refuses before it works."""

import json
from pathlib import Path

import pytest
import torch

from steerlab.agents.visionnet import training
from steerlab.agents.visionnet.metrics import FIGURES
from steerlab.agents.visionnet.network import SIZES, VisionSize
from steerlab.experiments.train_driving import main
from tests.agents.visionnet.shards import write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("zarr")
    return write_shards(tmp_path_factory.mktemp("driving") / "shards")


@pytest.mark.slow
def test_vision_from_shards_to_figures(
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(SIZES, "tiny", VisionSize((4, 4, 4, 4), (1, 1, 1, 1), 2, 4))
    monkeypatch.setattr(training, "_SHOWN", 1)
    config = tmp_path / "mine.yaml"
    config.write_text("epochs: 1\nbatch_size: 12\ndataset:\n  val_maps: [south]\n")
    test = next(iter(sorted(shards.glob("*south*"))))
    main([
        "--config-name", "mine", "--config-dir", str(tmp_path), f"dataset.train_path={shards}",
        f"dataset.test_path={test}", "device=cpu", f"output={tmp_path / 'out'}",
    ])  # fmt: skip
    said = " ".join(capsys.readouterr().out.split())
    assert "training: 2 episodes, 24 frames; north" in said
    assert "validation: 1 episodes, 12 frames; south" in said
    found = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert found.keys() == {"validation", "test"}
    assert found["test"] == found["validation"]  # the same episode
    assert found["test"].keys() == {"network", "training mean", "straight lines"}
    assert found["test"]["training mean"].keys() == FIGURES.keys()
    checkpoint = tmp_path / "out" / "artifacts" / "checkpoints" / "epoch_0001.pt"
    assert torch.load(checkpoint, weights_only=True)["vision"]["size"] == "tiny"
    with pytest.raises(SystemExit, match=r"training\.resume=false"):
        main([
            "--config-name", "mine", "--config-dir", str(tmp_path), f"dataset.train_path={shards}",
            f"dataset.test_path={test}", "device=cpu", f"output={tmp_path / 'out'}",
            "training.resume=false",
        ])  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["stage=both"], "stage"),
        (["epochs=0"], "epochs=0"),
        ([], r"dataset\.train_path is missing"),
        (["stage=policy"], "checkpoint="),
        (["dataset.train_path=none"], "no folder"),
        (["dataset.train_path={shards}", "dataset.val_maps=[west]"], "west"),
        (["dataset.train_path={shards}", "dataset.augmentations=[blur]"], "blur"),
        (["dataset.train_path={shards}", "checkpoint=none.pt"], "no checkpoint"),
    ],
)
def test_refusals(shards: Path, tmp_path: Path, options: list[str], said: str) -> None:
    filled = [option.replace("{shards}", str(shards)) for option in options]
    with pytest.raises(SystemExit, match=said):
        main([*filled, f"output={tmp_path / 'out'}"])
    assert not (tmp_path / "out" / "last.pt").exists()
