"""Train the tiny pi0-FAST on the pendulum: action chunks as tokens.

Reads data= (written by generate-pendulum-data) and writes the best weights, log and loss curve as
trained_models/, logs/ and loss_pics/tinypi0fast_YYYYMMDD_HHMM.{pth,txt,png}. An ensemble of ten is
--multirun "seed=range(10)" output=FOLDER; after an interruption the same command trains only the
missing models.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from steerlab.agents.inverted_pendulum.data import load_pairs
from steerlab.agents.inverted_pendulum.ensemble import train_member
from steerlab.agents.pi0_fast.model import Pi0Fast, Pi0FastConfig, pi0_fast_loss
from steerlab.agents.pi0_fast.tokenizer import FastTokenizer
from steerlab.agents.supervised import FitConfig, TensorData
from steerlab.options import option
from steerlab.seeds import initial_weights
from steerlab.study import jobs_folder, study


@dataclass(frozen=True)
class Config(FitConfig):
    """Options of the training."""

    data: str = option("runs/pendulum_data", "output folder of generate-pendulum-data")
    epochs: int = option(8, "largest number of epochs (passes over the training data)")
    batch_size: int = option(256, "pairs in each gradient step")
    learning_rate: float = option(3e-3, "largest learning rate of AdamW")
    weight_decay: float = option(0.01, "decoupled weight decay")
    warmup_steps: int = option(200, "steps over which the learning rate rises linearly")
    patience: int = option(4, "epochs without a better validation loss before stopping; 0 = never")
    ema_decay: float = option(0.995, "decay of the averaged weights that are kept; 0 = no average")
    width: int = option(64, "width of the transformer")
    layers: int = option(2, "layers of the transformer")
    threads: int = option(2, "CPU threads of torch")


def run(config: Config, output: Path) -> Path:
    """Train one member of the ensemble; return the path of its weights."""
    torch.set_num_threads(config.threads)
    pairs = load_pairs(config.data, "fast")
    tokenizer = FastTokenizer.load(Path(config.data, "tokenizer.json"))
    sets = {}
    for name in ("training", "validation", "test"):
        states, tokens = pairs.part(name)
        sets[name] = TensorData(
            state=torch.as_tensor(states, dtype=torch.float32), tokens=torch.as_tensor(tokens)
        )
    size = {"width": config.width, "layers": config.layers}
    with initial_weights(config.seed):
        model = Pi0Fast(tokenizer, Pi0FastConfig(**size))
    model.normalizer.adapt(sets["training"].tensors["state"])
    describe = {"kind": "pi0_fast", "model": size, "tokenizer": tokenizer.to_dict()}
    return train_member(
        "tinypi0fast", model, pi0_fast_loss, sets, config, describe, output, jobs_folder(output)
    )


main = study(Config, run, resumes=True)
