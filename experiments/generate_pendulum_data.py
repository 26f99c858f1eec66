"""Let experts balance the pendulum and cut their actions into chunks for pi0 and pi0-FAST.

Writes into output= the files training_pairs_original.npz (state, action_chunk),
training_pairs_fast.npz (state, token_seq), tokenizer.json and trajectories.npz. Both pair files
name for each pair its trajectory and its part of the split (0 train, 1 validation, 2 test); all
chunks of a trajectory are in the same part. The same seed writes the same arrays.

task=balance is the published data: nested PID with gains drawn for every trajectory. In task=goals
the experts go to two places on the rail, from each start one to either, since an obstacle fills
the middle after 1.6 s: the mean of their actions fails. Some start near the place that they go
to, off balance. Without these starts the data would not show what to do there, since an expert that
has arrived stands still.

pole_mass=, pole_length= and gear= take a range of factors, from which each trajectory draws its plant.
Neither the experts nor the learners know the drawn factors.

Examples:
  steerlab generate-pendulum-data
  steerlab generate-pendulum-data task=goals output=runs/pendulum_goals
  steerlab generate-pendulum-data "pole_length=[0.8,1.25]" output=runs/pendulum_lengths
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from steerlab.agents.inverted_pendulum.data import CHUNK, SPLITS
from steerlab.agents.inverted_pendulum.episodes import (
    GOALS,
)
from steerlab.agents.inverted_pendulum.experts import (
    Demonstrations,
    check_demonstrations,
    cut,
    expert_trajectories,
    split_of,
)
from steerlab.agents.pi0_fast.tokenizer import PRESETS, FastTokenizer
from steerlab.errors import unknown_name
from steerlab.files import transaction
from steerlab.options import option
from steerlab.readers.arrays import write_arrays
from steerlab.study import study


@dataclass(frozen=True)
class Config(Demonstrations):
    """Options of the data."""

    tokenizer: str = option("fine", "preset of scale and vocabulary: fine or seed")
    scale: float | None = option(None, "scale of the rounding, in place of the preset's")
    vocabulary: int | None = option(None, "size of the vocabulary, in place of the preset's")


def run(config: Config, output: Path) -> dict[str, float]:
    """Generate, cut, tokenize, write; print a summary."""
    if config.tokenizer not in PRESETS:
        raise unknown_name("tokenizer preset", config.tokenizer, PRESETS)
    check_demonstrations(config)
    preset = PRESETS[config.tokenizer]
    scale, vocabulary = config.scale or preset[0], config.vocabulary or preset[1]
    trajectories = expert_trajectories(config)
    states, chunks, numbers = cut(trajectories)
    ways = len(GOALS) if config.task == "goals" else 1  # of one start, all in the same part
    split = split_of(config.trajectories // ways, config.seed).repeat(ways)[numbers]
    tokenizer = FastTokenizer.train(chunks[split == 0], scale, vocabulary)
    sequences = tokenizer.sequences(chunks)

    shared = {"trajectory": numbers, "split": split}
    with transaction(output) as files:
        write_arrays(files.path("trajectories.npz"), vars(trajectories), compressed=True)
        original = {"state": states, "action_chunk": chunks, **shared}
        write_arrays(files.path("training_pairs_original.npz"), original, compressed=True)
        fast = {"state": states, "token_seq": sequences, **shared}
        write_arrays(files.path("training_pairs_fast.npz"), fast, compressed=True)
        tokenizer.save(files.path("tokenizer.json"))

    held_out = chunks[split == 2]
    tokens = [len(t) for t in tokenizer.encode(held_out)]
    error = tokenizer.restore(tokenizer.quantize(held_out)) - held_out
    bits = float(np.mean(tokens)) * np.log2(tokenizer.vocabulary)
    figures = {
        "tokens": float(np.mean(tokens)),
        "longest": float(np.max(tokens)),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "compression": CHUNK * 8 / bits,
    }
    table = Table("quantity", "value", title=f"pendulum data, task={config.task}")
    for name, part in zip(SPLITS, np.bincount(split, minlength=3), strict=True):
        table.add_row(f"{name} pairs", f"{part:,}")
    table.add_row("scale, vocabulary", f"{scale:g}, {tokenizer.vocabulary}")
    table.add_row(
        "tokens a chunk on test (mean, max)", "{tokens:.2f}, {longest:.0f}".format(**figures)
    )
    table.add_row("RMSE of decode(encode(chunk)) on test", f"{figures['rmse']:.4f}")
    table.add_row("against 50 tokens of 8 bits", f"{figures['compression']:.1f}x smaller")
    Console().print(table, f"in {output}")
    return figures


main = study(Config, run)
