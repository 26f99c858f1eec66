"""Write a trained vision network's files for a release of openpilot or sunnypilot, and check them.

checkpoint= is an epoch_NNNN.pt of train-driving. contract= is the release; it need not be the one that
the network was trained for. Releases of 2026 have one network: give the file of this command to
export-policy as vision=. onnx=, tinygrad= and metadata= are paths; '' puts the files into output=, and
tinygrad=none leaves the pickle out. The files are then checked as verify-export does.

Examples:
  steerlab export-vision checkpoint=runs/mine/artifacts/checkpoints/epoch_0020.pt shards=shards
  steerlab export-vision checkpoint=epoch_0020.pt contract=openpilot-0.11.0 onnx=out/vision.onnx tinygrad=none
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from steerlab.agents.driving import checkpoint_path, load_vision
from steerlab.agents.visionnet.data import find
from steerlab.agents.visionnet.network import VISION
from steerlab.errors import InputError
from steerlab.exporters.openpilot import Exported, paths
from steerlab.exporters.safety import VISION_NOT_FOR_THE_ROAD
from steerlab.exporters.verify import Options
from steerlab.exporters.vision import export_vision
from steerlab.exporters.written import tell_written
from steerlab.openpilot.contracts import contract
from steerlab.openpilot.tinygrad import check_tinygrad_path
from steerlab.options import option
from steerlab.study import study


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    checkpoint: str = option("", "epoch_NNNN.pt of train-driving, or steerlab: that of the package")
    contract: str = option("", "the release; '' = the one that the network was trained for")
    shards: str = option("", "folder of shards: some of their frames are kept beside the file for "
                         "its checks; '' = noise")  # fmt: skip
    onnx: str = option("", "path of the ONNX file; '' = output=/driving_vision.onnx")
    tinygrad: str = option(
        "", "path of the tinygrad pickle; '' = beside the ONNX file; none = no pickle"
    )
    metadata: str = option("", "path of the metadata; '' = beside the ONNX file")
    tinygrad_path: str = option("", "folder of the target's tinygrad; '' takes the installed one")
    half: bool = option(True, "also write the float16 variant")
    check: bool = option(True, "check the files as verify-export does")
    latency_ms: float = option(50.0, "largest accepted median time of a run with one thread, ms")


def run(config: Config, output: Path) -> Exported:
    """Read the checkpoint, write the files, check them; exit non-zero if a check failed."""
    if not config.checkpoint:
        raise InputError("checkpoint= is missing; give an epoch_NNNN.pt of train-driving")
    torch.set_num_threads(1)
    network = load_vision(config.checkpoint)
    target = contract(config.contract) if config.contract else network.contract
    if config.tinygrad_path:
        check_tinygrad_path(config.tinygrad_path)
    pickled = config.tinygrad != "none"
    places = paths(output, VISION, config.onnx, config.metadata, config.tinygrad if pickled else "")
    done = export_vision(
        network,
        places.onnx.parent,
        _run_name(checkpoint_path(config.checkpoint)),
        target=target,
        shards=find(config.shards, "shards")[0] if config.shards else None,
        places=places,
        half=config.half,
        tinygrad=pickled,
        tinygrad_path=config.tinygrad_path or None,
    )
    checks = Options(
        tinygrad=pickled,
        trust_pickle=True,  # made a moment ago
        tinygrad_path=config.tinygrad_path or None,
        latency_ms=config.latency_ms,
        runs=20,
    )
    warning = VISION_NOT_FOR_THE_ROAD
    tell_written({VISION: done}, done.notes, warning, target, checks if config.check else None)
    return done


def _run_name(checkpoint: Path) -> str:
    """Return the name of the run whose ``artifacts/checkpoints`` hold a checkpoint, and its own."""
    folders = checkpoint.resolve().parents
    run = folders[2].name if [f.name for f in folders[:2]] == ["checkpoints", "artifacts"] else ""
    return f"{run or folders[0].name}/{checkpoint.stem}"


main = study(Config, run)

if __name__ == "__main__":
    main()
