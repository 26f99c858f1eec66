"""Two processes of torchrun train one network into one folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from steerlab.agents.run_log import read_log

ROOT = Path(__file__).parents[3]
MAIN = """\
import sys
from steerlab.agents.visionnet.network import SIZES, VisionSize
SIZES["tiny"] = VisionSize((4, 4, 4, 4), (1, 1, 1, 1), 2, 4)
from steerlab.experiments.train_driving import main
main(sys.argv[1:])
"""


@pytest.mark.exhaustive
def test_two_processes_share_an_epoch(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(MAIN)
    options = [
        f"dataset.train_path={shards}", "dataset.val_maps=[south]", "epochs=2", "batch_size=4",
        "log_interval=1", "device=cpu", f"output={tmp_path / 'out'}",
    ]  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, str(tmp_path / "main.py"), *options], check=False, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    # 24 frames, four in a batch of each of two processes: three steps an epoch, not six.
    steps = [r["step"] for r in read_log(tmp_path / "out") if "train/loss" in r]
    assert steps == [0, 1, 2, 3, 4, 5]
    folder = tmp_path / "out" / "artifacts" / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["epoch_0001.pt", "epoch_0002.pt"]
    assert torch.load(folder / "epoch_0002.pt", weights_only=True)["told"]["epoch"] == 2
    assert "validation" in done.stdout
    assert done.stdout.count("training: 2 episodes") == 1  # one of them speaks
