"""Train the tiny pi0 on the pendulum: action chunks by flow matching.

Reads data= (written by generate-pendulum-data) and writes the best weights, log and loss curve as
trained_models/, logs/ and loss_pics/tinypi0_YYYYMMDD_HHMM.{pth,txt,png}. An ensemble of ten is
--multirun "seed=range(10)" output=FOLDER; after an interruption the same command trains only the
missing models.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from steerlab.agents.inverted_pendulum.data import load_pairs
from steerlab.agents.inverted_pendulum.ensemble import train_member
from steerlab.agents.pi0.model import Pi0, Pi0Config, pi0_loss
from steerlab.agents.supervised import FitConfig, TensorData
from steerlab.options import option
from steerlab.seeds import initial_weights
from steerlab.study import jobs_folder, study


@dataclass(frozen=True)
class Config(FitConfig):
    """Options of the training."""

    data: str = option("runs/pendulum_data", "output folder of generate-pendulum-data")
    epochs: int = option(40, "largest number of epochs (passes over the training data)")
    batch_size: int = option(256, "pairs in each gradient step")
    learning_rate: float = option(3e-3, "largest learning rate of AdamW")
    warmup_steps: int = option(200, "steps over which the learning rate rises linearly")
    patience: int = option(10, "epochs without a better validation loss before stopping; 0 = never")
    ema_decay: float = option(0.9995, "decay of the averaged weights that are kept; 0 = no average")
    patch: int = option(25, "actions in each token")
    width: int = option(64, "width of the transformer")
    layers: int = option(2, "layers of the transformer")
    threads: int = option(2, "CPU threads of torch")


def run(config: Config, output: Path) -> Path:
    """Train one member of the ensemble; return the path of its weights."""
    torch.set_num_threads(config.threads)
    pairs = load_pairs(config.data, "original")
    sets = {
        name: TensorData(**{
            key: torch.as_tensor(values, dtype=torch.float32)
            for key, values in zip(("state", "chunk"), pairs.part(name), strict=True)
        })
        for name in ("training", "validation", "test")
    }  # fmt: skip
    size = {"patch": config.patch, "width": config.width, "layers": config.layers}
    with initial_weights(config.seed):
        model = Pi0(Pi0Config(horizon=pairs.targets.shape[1], **size))
    model.normalizer.adapt(*sets["training"].tensors.values())
    describe = {"kind": "pi0", "model": {"horizon": pairs.targets.shape[1], **size}}
    return train_member(
        "tinypi0", model, pi0_loss, sets, config, describe, output, jobs_folder(output)
    )


main = study(Config, run, resumes=True)
