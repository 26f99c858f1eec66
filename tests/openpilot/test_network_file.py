"""Networks from files: a trusted pickle computes what the ONNX file does; nothing else is loaded."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from steerlab.agents.policynet.closed_loop import PolicyFile
from steerlab.agents.policynet.evaluate import drive
from steerlab.agents.policynet.model import PolicyNet, PolicySize
from steerlab.agents.policynet.train import save_policy
from steerlab.errors import InputError
from steerlab.exporters.metadata import onnx_properties, write_metadata
from steerlab.exporters.tinygrad import compile_tinygrad
from steerlab.openpilot.metadata import Metadata
from steerlab.openpilot.network_file import NetworkFile, _check
from steerlab.openpilot.tinygrad import TinygradEngine, missing_compiler

SHAPE = (1, 12, 128, 256)
METADATA = Metadata(
    {"pose": slice(0, 12), "hidden_state": slice(12, -2), "pad": slice(-2, None)},
    {"img": SHAPE, "big_img": SHAPE},
    {"outputs": (1, 526)},
    "a vision network of a test",
)


def write_vision(path: Path) -> None:
    """Write a vision network: the mean of each plane of both cameras, then a linear map."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(24, 526)) / 255, "axes": np.array([2, 3])}
    nodes = []
    for name in ("img", "big_img"):
        nodes += [
            helper.make_node("Cast", [name], [f"{name}_real"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", [f"{name}_real", "axes"], [f"{name}_mean"], keepdims=0),
        ]
    nodes += [
        helper.make_node("Concat", ["img_mean", "big_img_mean"], ["means"], axis=1),
        helper.make_node("MatMul", ["means", "w"], ["outputs"]),
    ]
    graph = helper.make_graph(
        nodes,
        "vision",
        [helper.make_tensor_value_info(n, TensorProto.UINT8, SHAPE) for n in ("img", "big_img")],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, [1, 526])],
        [
            numpy_helper.from_array(weights["w"].astype(np.float32), "w"),
            numpy_helper.from_array(weights["axes"].astype(np.int64), "axes"),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.helper.set_model_props(proto, onnx_properties(METADATA))
    onnx.save(proto, str(path))


@pytest.mark.skipif(bool(missing_compiler()), reason=missing_compiler())
@pytest.mark.slow
def test_a_trusted_pickle_sees_what_the_onnx_file_sees(tmp_path: Path) -> None:
    graph = tmp_path / "driving_vision.onnx"
    write_vision(graph)
    compile_tinygrad(graph, tmp_path / "driving_vision_tinygrad.pkl")
    write_metadata(tmp_path / "driving_vision_metadata.pkl", METADATA)
    file = NetworkFile(str(tmp_path / "driving_vision_tinygrad.pkl"), trust_pickle=True)
    found, wanted = file.open(), NetworkFile(str(graph)).open()
    assert found.slices == wanted.slices
    assert found.inputs == wanted.inputs
    rng = np.random.default_rng(1)
    feed = {n: rng.integers(0, 256, (2, *SHAPE[1:])).astype(np.uint8) for n in ("img", "big_img")}
    outputs = found.engine.run(feed)["outputs"]
    np.testing.assert_allclose(outputs, wanted.engine.run(feed)["outputs"], rtol=1e-4, atol=1e-4)
    assert file.open().engine is found.engine  # one process, however often it is opened

    torch.manual_seed(0)
    policy = tmp_path / "policy_model.pth"
    save_policy(policy, PolicyNet("openpilot-0.10.0", PolicySize(8, 8, 8)))
    paths = []
    for vision in (str(graph), file):
        drives = PolicyFile(str(policy), "openpilot-0.10.0", vision)
        paths.append(drive(drives, range(3, 5), max_episode_steps=10).offset)
    np.testing.assert_allclose(paths[1], paths[0], atol=1e-4)

    assert isinstance(found.engine, TinygradEngine)
    for shapes, slices, message in (
        ({"img": SHAPE}, METADATA.slices, "their inputs are img"),
        (METADATA.input_shapes, {"hidden_state": slice(0, 527)}, "ends at 527"),
    ):
        with pytest.raises(InputError, match=message):
            _check(file, found.engine, shapes, slices)


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize(
    ("contents", "trusted", "message"),
    [
        (None, True, "there is no tinygrad pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", True, "LFS"),
        (pickle.dumps(Evil()), True, "holds no captured TinyJit"),
        (pickle.dumps(Evil()), False, "set trust_pickle=true"),
    ],
)
def test_pickles_that_are_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: bytes | None, trusted: bool,
    message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    path = Path("vision_tinygrad.pkl")
    if contents:
        path.write_bytes(contents)
    with pytest.raises(InputError, match=message):
        NetworkFile(str(path), trust_pickle=trusted).open()
    assert not Path("executed").exists()


def test_metadata_are_read_without_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pickle is trusted, the file beside it is not: it is read before anything is started."""
    monkeypatch.chdir(tmp_path)
    Path("vision_tinygrad.pkl").write_bytes(b"\x80\x04ctinygrad.engine.jit\nTinyJit\n.")
    file = NetworkFile("vision_tinygrad.pkl", trust_pickle=True)
    assert file.metadata_path() == Path("vision_metadata.pkl")
    with pytest.raises(InputError, match=r"no metadata file 'vision_metadata\.pkl'"):
        file.open()
    Path("vision_metadata.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="metadata"):
        file.open()
    assert not Path("executed").exists()
