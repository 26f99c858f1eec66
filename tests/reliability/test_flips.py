"""One flipped bit in a file that steerlab wrote: refused, or it means the same bit for bit."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from steerlab.agents.checkpoint import load_checkpoint, save_checkpoint
from steerlab.agents.pi0_fast.tokenizer import FastTokenizer
from steerlab.agents.trc.data import load_plans, make_arrays, save_plans
from steerlab.envs.tracking.double_integrator import DoubleIntegrator
from steerlab.errors import InputError
from steerlab.readers.arrays import read_arrays, write_arrays
from steerlab.readers.graphs import read_graph, write_graph
from steerlab.surrogates.plants.load import DEFAULT_PLANT

FLIPS = 200  # of each kind
#: Reads a file; returns something that can be compared, the same for the same meaning.
Read = Callable[[Path], Any]


def plain(value: Any) -> Any:
    """Return tensors and arrays as bytes with their type and shape."""
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def graph_of(path: Path) -> bytes:
    model = read_graph(path)
    return bytes(model.graph.SerializeToString(deterministic=True))


def checkpoint(path: Path) -> Read:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(30, 40), nn.Linear(40, 5))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 30)).sum().backward()
    optimizer.step()
    contents = {"model": network.state_dict(), "optimizer": optimizer.state_dict()}
    save_checkpoint(path, "a test", contents | {"step": 3, "values": {"best_loss": 0.25}})
    return lambda p: plain(load_checkpoint(p))


def plans(path: Path) -> Read:
    problem = DoubleIntegrator(steps=4, horizon=1.0)
    initial, targets = problem.sample(np.random.RandomState(0), 50)
    arrays = make_arrays(problem, initial, targets, np.zeros((50, 4, 1)), np.ones(50))
    save_plans(path, problem, arrays)

    def read(file: Path) -> Any:
        data = load_plans(file)
        return data.problem, plain(data.arrays)

    return read


def compressed(path: Path) -> Read:
    values = {
        "a": np.arange(500).reshape(5, 100),
        "b": np.linspace(0, 1, 40),
        "c": np.array("text"),
    }
    write_arrays(path, values, compressed=True)
    return lambda p: plain(read_arrays(p))


def tokenizer(path: Path) -> Read:
    FastTokenizer.train(np.random.default_rng(0).normal(size=(50, 10)), 3.0, 64).save(path)
    return lambda p: FastTokenizer.load(p).to_dict()


def plant(path: Path) -> Read:
    write_graph(path, onnx.load(str(DEFAULT_PLANT)))
    return graph_of


KINDS: dict[str, tuple[str, Callable[[Path], Read]]] = {
    "checkpoint": ("x.pt", checkpoint),
    "plans": ("x.npz", plans),
    "compressed arrays": ("x.npz", compressed),
    "tokenizer": ("x.json", tokenizer),
    "plant": ("x.onnx", plant),
}


def flips(make: Callable[[Path], Read], path: Path, count: int) -> tuple[int, int]:
    """Flip ``count`` single bits; return how many were refused, and how many meant something else."""
    read = make(path)
    data, whole = path.read_bytes(), read(path)
    rng = random.Random(path.suffix)
    refused = wrong = 0
    for _ in range(count):
        place = rng.randrange(8 * len(data))
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            wrong += read(path) != whole
        except InputError:
            refused += 1
    return refused, wrong


@pytest.mark.parametrize("name", KINDS)
def test_a_sample_of_flipped_bits(name: str, tmp_path: Path) -> None:
    file, make = KINDS[name]
    refused, wrong = flips(make, tmp_path / file, 10)
    assert not wrong
    assert refused


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", KINDS)
def test_flipped_bits(name: str, tmp_path: Path, tally: Callable[[str, int, int], None]) -> None:
    file, make = KINDS[name]
    refused, wrong = flips(make, tmp_path / file, FLIPS)
    tally(f"flipped bits, {name} ({refused} refused, the rest equal)", FLIPS, wrong)
    assert not wrong
