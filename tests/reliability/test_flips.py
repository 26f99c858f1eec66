"""One flipped bit in a file that steerlab wrote: refused, or it means the same bit for bit."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from steerlab.agents.checkpoint import load_checkpoint, save_checkpoint
from steerlab.agents.inverted_pendulum.data import load_pairs
from steerlab.agents.pi0_fast.tokenizer import FastTokenizer
from steerlab.agents.policynet.train import ImitationConfig, load_policy, new_policy, save_policy
from steerlab.agents.trc.data import load_plans, make_arrays, save_plans
from steerlab.envs.shards.layout import ATTRIBUTES, PARTS
from steerlab.envs.shards.read import open_shard
from steerlab.envs.tracking.double_integrator import DoubleIntegrator
from steerlab.errors import InputError
from steerlab.exporters.metadata import onnx_properties, write_metadata
from steerlab.exporters.onnx import export_onnx
from steerlab.files import HIDDEN
from steerlab.openpilot.engines import load_network
from steerlab.openpilot.metadata import Metadata, read_metadata
from steerlab.readers.arrays import read_arrays, write_arrays
from steerlab.readers.graphs import read_graph, write_graph
from steerlab.surrogates.logs.extract import ExtractReport, Segment, load_labels, save_segments
from steerlab.surrogates.plants.load import DEFAULT_PLANT
from steerlab.surrogates.segments.data import INDEX, load_segments, write_segment
from steerlab.surrogates.segments.synthetic import synthetic_segment
from tests.agents.visionnet import shards
from tests.counts import Tally

FLIPS = 200  # of each kind
#: Reads what was written; returns something that can be compared, the same for the same meaning.
Read = Callable[[], Any]


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


def checkpoint(folder: Path) -> Read:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(30, 40), nn.Linear(40, 5))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 30)).sum().backward()
    optimizer.step()
    contents = {"model": network.state_dict(), "optimizer": optimizer.state_dict()}
    more = {"step": 3, "values": {"best_loss": 0.25}}
    save_checkpoint(folder / "x.pt", "a test", contents | more)
    return lambda: plain(load_checkpoint(folder / "x.pt"))


def policy(folder: Path) -> Read:
    save_policy(folder / "policy_model.pth", new_policy(ImitationConfig(**SMALL)))

    def read() -> Any:
        found = load_policy(folder / "policy_model.pth")
        return found.describe(), plain(found.state_dict())

    return read


def plans(folder: Path) -> Read:
    problem = DoubleIntegrator(steps=4, horizon=1.0)
    initial, targets = problem.sample(np.random.RandomState(0), 50)
    arrays = make_arrays(problem, initial, targets, np.zeros((50, 4, 1)), np.ones(50))
    save_plans(folder / "x.npz", problem, arrays)

    def read() -> Any:
        data = load_plans(folder / "x.npz")
        return data.problem, plain(data.arrays)

    return read


def compressed(folder: Path) -> Read:
    values = {
        "a": np.arange(500).reshape(5, 100),
        "b": np.linspace(0, 1, 40),
        "c": np.array("text"),
    }
    write_arrays(folder / "x.npz", values, compressed=True)
    return lambda: plain(read_arrays(folder / "x.npz"))


def pairs(folder: Path) -> Read:
    states = np.random.default_rng(0).normal(size=(40, 4))
    arrays = {"state": states, "token_seq": np.ones((40, 9), int), "split": np.zeros(40, np.int8)}
    write_arrays(folder / "training_pairs_fast.npz", arrays, compressed=True)
    return lambda: plain(vars(load_pairs(folder, "fast")))


def labels(folder: Path) -> Read:
    table = np.cumsum(np.random.default_rng(0).normal(size=(50, 9)), axis=0)
    save_segments(folder / "x.npz", [Segment(table, 0.0, {})], ExtractReport())
    return lambda: plain(load_labels(folder / "x.npz"))


def segments(folder: Path) -> Read:
    """Segments as an extraction leaves them, with the hashes in the index."""
    entries = []
    for number in range(2):
        path = folder / f"{number:05d}.csv"
        write_segment(path, synthetic_segment(np.random.default_rng(number)))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entries.append({"id": path.stem, "sha256": digest})
    (folder / INDEX).write_text(json.dumps(entries, indent=1))

    def read() -> Any:
        found = load_segments(folder)
        return found.names, plain([v for v in vars(found).values() if isinstance(v, np.ndarray)])

    return read


def shard(folder: Path) -> Read:
    pytest.importorskip("zarr")
    shards.write_shards(folder)
    first, *others = sorted(folder.iterdir())
    for other in others:
        shutil.rmtree(other)

    def read() -> Any:
        found = open_shard(first)
        told = {name: found.attributes[name] for name in ATTRIBUTES}
        return told, plain([found.read(name) for name in PARTS])

    return read


def tokenizer(folder: Path) -> Read:
    path = folder / "x.json"
    FastTokenizer.train(np.random.default_rng(0).normal(size=(50, 10)), 3.0, 64).save(path)
    return lambda: FastTokenizer.load(path).to_dict()


def plant(folder: Path) -> Read:
    write_graph(folder / "x.onnx", onnx.load(str(DEFAULT_PLANT)))
    return lambda: bytes(read_graph(folder / "x.onnx").graph.SerializeToString(deterministic=True))


def network(folder: Path) -> Read:
    """An exported network, as openpilot gets it; what it computes is compared, too."""
    torch.manual_seed(0)
    slices = onnx_properties(METADATA)
    export_onnx(
        nn.Linear(3, 5), [torch.zeros(2, 3)], folder / "x.onnx", ["x"], ["outputs"], metadata=slices
    )

    def read() -> Any:
        outputs = load_network(folder / "x.onnx").engine.run({"x": np.ones((2, 3), np.float32)})
        graph = read_graph(folder / "x.onnx")
        properties = {p.key: p.value for p in graph.metadata_props if p.key in slices}
        return plain(outputs), properties, graph.graph.SerializeToString(deterministic=True)

    return read


def metadata(folder: Path) -> Read:
    write_metadata(folder / "x_metadata.pkl", METADATA)
    return lambda: read_metadata(folder / "x_metadata.pkl")


METADATA = Metadata(
    {"plan": slice(0, 4), "desire": slice(4, 5)}, {"x": (2, 3)}, {"outputs": (2, 5)}, "a run"
)
SMALL: dict[str, Any] = {"reduced": 8, "hidden": 8, "trunk": 8}
KINDS: dict[str, Callable[[Path], Read]] = {
    "checkpoint": checkpoint,
    "policy_model.pth": policy,
    "plans": plans,
    "compressed arrays": compressed,
    "pairs": pairs,
    "labels": labels,
    "segments": segments,
    "shard": shard,
    "tokenizer": tokenizer,
    "plant": plant,
    "exported network": network,
    "exported metadata": metadata,
}


def flips(make: Callable[[Path], Read], folder: Path, count: int) -> tuple[int, int]:
    """Flip ``count`` single bits; return how many were refused, and how many meant something else."""
    folder.mkdir()
    read = make(folder)
    whole = read()
    files = sorted(p for p in folder.rglob("*") if p.is_file() and HIDDEN not in p.parts)
    rng = random.Random(0)
    refused = wrong = 0
    for _ in range(count):
        path = rng.choice(files)
        data = path.read_bytes()
        place = rng.randrange(8 * len(data))
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            wrong += read() != whole
        except InputError:
            refused += 1
        path.write_bytes(data)
    return refused, wrong


@pytest.mark.parametrize("name", KINDS)
def test_a_sample_of_flipped_bits(name: str, tmp_path: Path) -> None:
    refused, wrong = flips(KINDS[name], tmp_path / "files", 10)
    assert not wrong
    assert refused


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", KINDS)
def test_flipped_bits(name: str, tmp_path: Path, tally: Tally) -> None:
    refused, wrong = flips(KINDS[name], tmp_path / "files", FLIPS)
    equal = FLIPS - refused - wrong
    tally("flipped bits", name, flips=FLIPS, refused=refused, equal=equal, misread=wrong)
    assert not wrong
