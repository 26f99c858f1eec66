"""Every reader of foreign files, with files that it reads."""

import bz2
import io
import json
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from torch import nn

from steerlab.agents.checkpoint import checkpoint_bytes, load_checkpoint
from steerlab.agents.foreign_weights import read_weights
from steerlab.agents.inverted_pendulum.data import load_pairs
from steerlab.agents.inverted_pendulum.published import read_vocabulary
from steerlab.agents.pi0_fast.tokenizer import FastTokenizer
from steerlab.agents.run_log import read_log
from steerlab.agents.trc.data import load_plans, make_arrays, save_plans
from steerlab.envs.tracking.double_integrator import DoubleIntegrator
from steerlab.exporters.onnx import export_onnx
from steerlab.openpilot.engines import load_network
from steerlab.openpilot.metadata import read_metadata
from steerlab.readers.arrays import write_arrays
from steerlab.readers.text import read_json, read_yaml
from steerlab.surrogates.logs.extract import (
    ExtractOptions,
    ExtractReport,
    Segment,
    extract_log,
    load_labels,
    save_segments,
)
from steerlab.surrogates.logs.reader import file_chunks
from steerlab.surrogates.plants.load import DEFAULT_PLANT
from steerlab.surrogates.plants.onnx import OnnxPlant
from steerlab.surrogates.segments import comma
from steerlab.surrogates.segments.data import load_segments, write_segment
from steerlab.surrogates.segments.synthetic import synthetic_segment
from steerlab.surrogates.training.dataset import Sequences
from tests.clean_fork import ended, fork
from tests.surrogates.logs.log_writer import Drive, log


@dataclass(frozen=True)
class Reader:
    """A reader and a file that it reads.

    Attributes:
        name: Name of the file, whose suffix may matter.
        read: Called with the path of the file.
        sample: Contents that it reads.
        slow: A tenth of the inputs is enough.
    """

    name: str
    read: Callable[[Path], Any]
    sample: bytes
    slow: bool = False


def readers(folder: Path) -> dict[str, Reader]:
    """Return the readers; files are made in ``folder``, in a process of its own."""
    note = folder / "readers.pkl"
    assert ended(fork(_note_readers, folder, note), 300) == 0
    found: dict[str, Reader] = pickle.loads(note.read_bytes())
    return found


def _note_readers(folder: Path, note: Path) -> None:
    note.write_bytes(pickle.dumps(make_readers(folder)))


def make_readers(folder: Path) -> dict[str, Reader]:
    """Return the readers; files are made in ``folder``."""
    rng = np.random.default_rng(0)
    found: dict[str, Reader] = {}
    weights = {"model": nn.Linear(3, 2).state_dict(), "step": 3, "log": [{"step": 0, "loss": 0.5}]}
    found["checkpoint"] = Reader("x.pt", load_checkpoint, checkpoint_bytes("a test", weights))

    problem = DoubleIntegrator(steps=4, horizon=1.0)
    initial, targets = problem.sample(np.random.RandomState(0), 3)
    arrays = make_arrays(problem, initial, targets, np.zeros((3, 4, 1)), np.ones(3))
    save_plans(folder / "plans.npz", problem, arrays)
    found["plans"] = Reader("plans.npz", load_plans, (folder / "plans.npz").read_bytes())
    foreign = io.BytesIO()  # as other programs write them: without a checksum
    np.savez_compressed(foreign, **arrays)  # type: ignore[arg-type]
    found["plans, foreign"] = Reader("plans.npz", load_plans, foreign.getvalue())

    path = folder / "training_pairs_fast.npz"
    pairs = {"state": rng.normal(size=(5, 4)), "token_seq": np.ones((5, 3), int)}
    write_arrays(path, pairs | {"split": np.zeros(5, np.int8)}, compressed=True)
    found["pairs"] = Reader(path.name, _pairs, path.read_bytes())

    table = np.cumsum(rng.normal(size=(50, 9)), axis=0)
    save_segments(folder / "labels.npz", [Segment(table, 0.0, {})], ExtractReport())
    found["labels"] = Reader("labels.npz", load_labels, (folder / "labels.npz").read_bytes())

    zeros = np.zeros((2, 30), np.int16)
    states = rng.normal(size=(2, 30, 4)).astype(np.float32)
    Sequences(states, zeros, np.array([30, 30]), ("a", "b")).save(folder / "sequences.npz")
    sample = (folder / "sequences.npz").read_bytes()
    found["sequences"] = Reader("sequences.npz", Sequences.load, sample)

    write_segment(folder / "00000.csv", synthetic_segment(rng))
    csv = (folder / "00000.csv").read_bytes()
    found["segment"] = Reader("00000.csv", load_segments, csv, slow=True)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("00000.csv", csv)
    found["segments, zip"] = Reader("x.zip", load_segments, packed.getvalue(), slow=True)
    found["routes to fetch"] = Reader("y.zip", _fetch_data, packed.getvalue())

    drive = log(Drive(seconds=3.0))
    for name, data in (
        ("log", drive),
        ("log, bz2", bz2.compress(drive)),
        ("log, zst", _zst(drive)),
    ):
        found[name] = Reader("rlog", _extract, data, slow=True)

    metadata = {"output_slices": {"plan": slice(0, 5)}, "input_shapes": {"x": (1, 2)}}
    metadata |= {"output_shapes": {"y": (1, 5)}, "model_checkpoint": "a"}
    for protocol in (2, 5):
        data = pickle.dumps(metadata, protocol)
        found[f"metadata, protocol {protocol}"] = Reader("m.pkl", read_metadata, data)

    settings = {"seed": 1, "sizes": [1, 2], "nested": {"rate": 0.5, "name": "a: b"}, "none": None}
    state = io.BytesIO()
    torch.save(nn.Linear(3, 2).state_dict(), state)
    found["weights, foreign"] = Reader("w.pth", _weights, state.getvalue())
    words = {"[BOS]": 0, "[EOS]": 1, "[PAD]": 2, "[UNK]": 3}
    words |= {str(i - 128): i for i in range(4, 200)} | {f"0,{i}": i for i in range(200, 256)}
    found["vocabulary, foreign"] = Reader(
        "v.json", read_vocabulary, json.dumps({"vocab": words, "merges": []}).encode()
    )
    found["yaml"] = Reader("config.yaml", read_yaml, yaml.safe_dump(settings).encode())
    found["json"] = Reader("options.json", _json, json.dumps(settings).encode())
    lines = "".join(json.dumps({"step": k, "loss/a": 0.1 * k}) + "\n" for k in range(5))
    found["log of a run"] = Reader("metrics.jsonl", _run_log, lines.encode())

    tokenizer = FastTokenizer.train(rng.normal(size=(50, 10)), 3.0, 64)
    tokenizer.save(folder / "tokenizer.json")
    sample = (folder / "tokenizer.json").read_bytes()
    found["tokenizer"] = Reader("tokenizer.json", FastTokenizer.load, sample)
    foreign_tokenizer = json.dumps(tokenizer.to_dict()).encode()
    found["tokenizer, foreign"] = Reader("tokenizer.json", FastTokenizer.load, foreign_tokenizer)

    found["plant"] = Reader("plant.onnx", OnnxPlant, DEFAULT_PLANT.read_bytes(), slow=True)
    bare = onnx.load(str(DEFAULT_PLANT))
    del bare.metadata_props[:]
    found["plant, foreign"] = Reader("p.onnx", OnnxPlant, bare.SerializeToString(), slow=True)
    export_onnx(
        nn.Linear(3, 2), [torch.zeros(2, 3)], folder / "n.onnx", ["x"], ["outputs"],
        metadata={"output_slices": "gASVHgAAAAAAAAB9lIwBYZSMCGJ1aWx0aW5zlIwFc2xpY2WUk5RLAEsCTodSlHMu"},
    )  # fmt: skip
    network = onnx.load(str(folder / "n.onnx"))
    kept = [p for p in network.metadata_props if not p.key.startswith("steerlab")]
    del network.metadata_props[:]
    network.metadata_props.extend(kept)
    found["network"] = Reader("n.onnx", load_network, network.SerializeToString(), slow=True)
    return found


def _weights(path: Path) -> Any:
    return read_weights(path, nn.Linear(3, 2), "a file of weights")


def _pairs(path: Path) -> None:
    load_pairs(path.parent, "fast")


def _json(path: Path) -> None:
    read_json(path, dict)


def _run_log(path: Path) -> None:
    read_log(path.parent)


def _zst(data: bytes) -> bytes:
    compressed: bytes = pytest.importorskip("zstandard").ZstdCompressor().compress(data)
    return compressed


def _extract(path: Path) -> None:
    for _ in extract_log(file_chunks(path), ExtractOptions(min_seconds=1.0)):
        pass


def _fetch_data(path: Path) -> None:
    """Fetch the routes from an archive, into a folder of their own."""
    with tempfile.TemporaryDirectory(dir=path.parent) as cache:
        os.environ["STEERLAB_CACHE"] = cache
        comma.fetch_data(str(path))
