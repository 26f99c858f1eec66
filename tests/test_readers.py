"""One small hostile file of each kind; the suites in tests/fuzz make thousands."""

import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from steerlab.agents.checkpoint import load_checkpoint, save_checkpoint
from steerlab.agents.pi0_fast.tokenizer import FastTokenizer
from steerlab.errors import InputError
from steerlab.openpilot.onnx_file import read_onnx
from steerlab.readers import archives
from steerlab.readers.arrays import read_arrays, write_arrays
from steerlab.readers.graphs import read_graph
from steerlab.readers.pickles import read_pickle
from steerlab.readers.text import parse_json, read_json_lines, read_yaml
from steerlab.surrogates.logs.extract import ExtractOptions, ExtractReport, extract_log
from steerlab.surrogates.segments.data import load_segments


def refuse(read: Callable[..., Any], path: Path, data: bytes, words: str) -> None:
    path.write_bytes(data)
    with pytest.raises(InputError, match=words):
        read(path)


def zipped(content: bytes, kind: int = zipfile.ZIP_DEFLATED, name: str = "a.npy") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def npy(text: str, rest: bytes = b"") -> bytes:
    header = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + rest


def test_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npz"
    with monkeypatch.context() as patch:
        patch.setattr(archives, "LARGEST", 2**20)
        refuse(read_arrays, path, zipped(bytes(2**25)), "unpacks to more than")
    refuse(read_arrays, path, zipped(b"x", zipfile.ZIP_LZMA), "packed in an unusual way")
    huge = "{'descr': '<f8', 'fortran_order': False, 'shape': (100000, 100000, 1000), }"
    refuse(read_arrays, path, zipped(npy(huge)), "needs more bytes than there are")
    objects = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    refuse(read_arrays, path, zipped(npy(objects, pickle.dumps([1]))), "Python objects")
    refuse(read_arrays, path, zipped(b"x", name="a.txt"), "no array")
    write_arrays(path, {"a": np.arange(3)})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["b.npy"] = members.pop("a.npy")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match="do not have their checksum"):
        read_arrays(path)


def test_text(tmp_path: Path) -> None:
    path = tmp_path / "x"
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 40)
    )
    refuse(read_yaml, path, bomb.encode(), "aliases are not accepted")
    refuse(read_yaml, path, b"a: !!python/object/apply:os.getcwd []\n", "not readable as YAML")
    refuse(read_yaml, path, b"- a\n", "no options by name")
    refuse(read_yaml, path, b"[" * 5000, "not readable as YAML")
    with pytest.raises(InputError, match="not readable as JSON"):
        parse_json("[" * 10**5 + "]" * 10**5, "it")
    with pytest.raises(InputError, match="nested more than 50 deep"):
        parse_json("[" * 60 + "]" * 60, "it")
    path.write_text('{"step": 0}\n{"step": 1}\n{"ste')  # the last line was cut off
    assert read_json_lines(path) == [{"step": 0}, {"step": 1}]
    refuse(read_json_lines, path, b'{"step": 0}\n[1]\n', "line 2 .* holds a list")


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04N" + b"r\xff\xff\xff\x0f.",  # LONG_BINPUT far beyond the memo
        pickle.dumps({"a": {1, 2}}),
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04.",
    ],
)
def test_pickles(data: bytes) -> None:
    with pytest.raises(InputError):
        read_pickle(data, "it")


def test_logs_and_segments(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    report = ExtractReport()
    bomb = zstandard.ZstdCompressor().compress(bytes(2**28))
    assert len(bomb) < 10**5
    assert not list(extract_log([bomb], ExtractOptions(), report))
    assert "no message starts at byte 0" in report.log.damage
    refuse(load_segments, tmp_path / "0.csv", gzip.compress(bytes(10**6)), "unpack it")


def test_a_tokenizer_that_would_end_the_process(tmp_path: Path) -> None:
    tokenizer = FastTokenizer.train(np.random.default_rng(0).normal(size=(50, 10)), 3.0, 64)
    values = tokenizer.to_dict()
    bpe = json.loads(values["bpe"])
    bpe["model"]["continuing_subword_prefix"] = "##"
    text = json.dumps(values | {"bpe": json.dumps(bpe)})
    refuse(FastTokenizer.load, tmp_path / "t.json", text.encode(), "its settings are others")


def graph(nodes: list[onnx.NodeProto], shape: list[int]) -> bytes:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    size = helper.make_tensor("size", TensorProto.INT64, [len(shape)], shape)
    made = helper.make_graph(nodes, "g", [], [output], [size])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def test_a_graph_that_wants_all_memory(tmp_path: Path) -> None:
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["y"])]
    refuse(read_graph, tmp_path / "x.onnx", graph(nodes, [2**16, 2**16]), "more time or memory")
    (tmp_path / "x.onnx").write_bytes(graph(nodes, [3, 2]))
    assert read_graph(tmp_path / "x.onnx").graph.node[0].op_type == "ConstantOfShape"


def test_a_graph_with_tensors_elsewhere(tmp_path: Path) -> None:
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["y"])]
    model = onnx.load_model_from_string(graph(nodes, [3]))
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    refuse(read_graph, tmp_path / "x.onnx", model.SerializeToString(), "in other files")


@pytest.mark.parametrize("what", [b"axis_is_here", b"key_is_here", b"value_is_here"])
def test_a_graph_with_names_that_are_no_text(tmp_path: Path, what: bytes) -> None:
    """Protobuf returns them as bytes, which no user of a name expects."""
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["y"], name="axis_is_here")]
    model = onnx.load_model_from_string(graph(nodes, [3]))
    helper.set_model_props(model, {"key_is_here": "value_is_here", "output_slices": ""})
    data = model.SerializeToString().replace(what, b"\xff" * len(what))
    for read in (read_graph, read_onnx):
        refuse(read, tmp_path / "x.onnx", data, "is no text")


def test_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    save_checkpoint(path, "a kind", {"model": {"w": torch.ones(3)}, "step": 1})
    plain = torch.load(path, weights_only=True)
    assert plain["kind"] == "a kind"
    assert plain["version"] == 1
    with pytest.raises(InputError, match="is a checkpoint of a kind, not of another"):
        load_checkpoint(path, "another")
    torch.save(plain | {"version": 2}, path)
    with pytest.raises(InputError, match="has version 2"):
        load_checkpoint(path)
    torch.save(plain | {"step": 2}, path)
    with pytest.raises(InputError, match="do not have its checksum"):
        load_checkpoint(path)
    torch.save(plain | {"model": {"w": torch.ones(1).expand(10**12)}}, path)
    with pytest.raises(InputError, match="checksum"):
        load_checkpoint(path)
    shared: list[Any] = ["x"] * 10
    for _ in range(20):
        shared = [shared] * 10
    torch.save(plain | {"model": shared}, path)
    with pytest.raises(InputError, match="checksum"):
        load_checkpoint(path)
