"""Write the plant of a `train-surrogate` run as an ONNX file again, elsewhere or for another opset.

Example:
  steerlab export-surrogate checkpoint=runs/train_surrogate/mine onnx_path=models/ onnx_opset=20
"""

from dataclasses import dataclass
from pathlib import Path

from steerlab.agents.checkpoint import load_checkpoint
from steerlab.errors import InputError
from steerlab.exporters.plant import OPSET, export_plant, onnx_file
from steerlab.options import option
from steerlab.study import study
from steerlab.surrogates.plants.architectures import build


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    checkpoint: str = option("", "folder of a train-surrogate run, or its best.pt")
    onnx_path: str | None = option(
        None, "path of the ONNX file, or its folder; by default the output folder"
    )
    onnx_opset: int = option(OPSET, "version of the ONNX operator set")


@dataclass(frozen=True)
class _Trained:
    architecture: str
    size: str
    sources: list[str]


def run(config: Config, output: Path) -> Path:
    """Read the weights and write the file; return its path."""
    if not config.checkpoint:
        raise InputError("checkpoint= is missing; give the folder of a train-surrogate run")
    source = Path(config.checkpoint).expanduser()
    source = source / "best.pt" if source.is_dir() else source
    contents = load_checkpoint(source)
    try:
        described, settings = contents["describe"], contents["config"]
        trained = _Trained(described["architecture"], described["size"], settings["sources"])
        model = build(trained.architecture, trained.size)
        model.load_state_dict(contents["model"])
    except (KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise InputError(
            f"{str(source)!r} is no checkpoint of train-surrogate ({type(error).__name__}: "
            f"{str(error)[:200]}); give the folder of such a run"
        ) from error
    path = onnx_file(config.onnx_path, output)
    export_plant(model.eval(), path, trained, config.onnx_opset)
    print(f"plant: {path} ({path.stat().st_size / 1e6:.2f} MB)")
    return path


main = study(Config, run)

if __name__ == "__main__":
    main()
