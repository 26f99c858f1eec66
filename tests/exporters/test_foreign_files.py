"""Files of strangers: every fault is named, and none is a traceback."""

import codecs
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from steerlab.errors import InputError
from steerlab.exporters.openpilot import export_model
from steerlab.exporters.sample import SampleNetwork
from steerlab.exporters.verify import FAIL, NOTE, Check, Options, failed, runtime, verify_export
from steerlab.openpilot.contracts import contract
from steerlab.openpilot.engines import load_network
from steerlab.openpilot.metadata import read_metadata, slices_from_properties
from steerlab.openpilot.onnx_file import read_onnx
from steerlab.openpilot.probe import example_inputs, read_probe
from steerlab.openpilot.runner import Runner
from steerlab.openpilot.tinygrad import supported_operators
from steerlab.readers.graphs import forget_hash, one_line

C = contract("openpilot-0.10.0")
POLICY = C.model("driving_policy")
POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 14060847\n"
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    export_model(SampleNetwork(POLICY), C, POLICY, folder, half=False, tinygrad=False)
    return folder


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copy"))


def check(folder: Path, **options: Any) -> dict[str, Check]:
    chosen = Options(**{"tinygrad": False, "runs": 2} | options)
    return {r.name: r for r in verify_export(folder / "driving_policy.onnx", C, options=chosen)}


def written(path: Path, **changes: Any) -> Path:
    """Write a metadata file that is sound but for the changes."""
    contents = {
        "model_checkpoint": "",
        "output_slices": dict(POLICY.slices),
        "input_shapes": {n: i.shape for n, i in POLICY.inputs.items()},
        "output_shapes": {"outputs": (1, POLICY.length)},
    }
    path.write_bytes(pickle.dumps(contents | changes))
    return path


BAD_METADATA = [
    ({"output_slices": {"plan": slice(0.0, 4955.0)}}, r"slice of 'plan'.*slice\(0\.0, 4955\.0"),
    ({"output_slices": {"plan": slice("a", "b")}}, r"slice\('a', 'b'"),
    ({"output_slices": {"plan": slice(0, 10, 2)}}, "step 1"),
    ({"output_slices": {"plan": slice(None, None, 0)}}, "step 1"),
    ({"output_slices": {"plan": slice(True, 4)}}, "whole numbers"),
    ({"output_slices": {"plan": slice(0, 10**5000)}}, "whole numbers"),
    ({"output_slices": {"plan": slice((1, 2), [3])}}, "whole numbers"),
    ({"output_slices": {"plan": [0, 4955]}}, r"the list \[0, 4955\]"),
    ({"output_slices": {"plan": None}}, "NoneType None"),
    ({"output_slices": {7: slice(0, 4955)}}, "key 7, a int"),
    ({"output_slices": {b"plan": slice(0, 4955)}}, r"key b'plan', a bytes"),
    ({"output_slices": {None: slice(0, 4955)}}, "key None"),
    ({"output_slices": [slice(0, 4955)]}, "no dictionary 'output_slices'"),
    ({"output_slices": None}, "no dictionary 'output_slices'"),
    ({"input_shapes": {"desire": 5}}, r"shape of 'desire' in input_shapes.* is 5"),
    ({"input_shapes": {"desire": None}}, "is None"),
    ({"input_shapes": {"desire": "125"}}, "is '125'"),
    ({"input_shapes": {"desire": (1.0, 25.0, 8.0)}}, r"\(1\.0, 25\.0, 8\.0\)"),
    ({"input_shapes": {"desire": (1, None, 8)}}, r"\(1, None, 8\)"),
    ({"input_shapes": {"desire": (1, -25, 8)}}, r"\(1, -25, 8\)"),
    ({"input_shapes": {"desire": {1: 2}}}, "is <dict>"),
    ({"input_shapes": {3: (1, 25, 8)}}, "key 3"),
    ({"input_shapes": 5}, "no dictionary 'input_shapes'"),
    ({"output_shapes": {"outputs": None}}, "shape of 'outputs' in output_shapes.* is None"),
    ({"output_shapes": {"outputs": (1, "4968")}}, r"\(1, '4968'\)"),
    ({"output_shapes": {"outputs": 4968}}, "is 4968"),
    ({"output_shapes": ()}, "no dictionary 'output_shapes'"),
]


@pytest.mark.parametrize(("changes", "words"), BAD_METADATA)
def test_metadata_of_any_shape_and_type(changes: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as error:
        read_metadata(written(tmp_path / "m.pkl", **changes))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_metadata_that_are_odd_but_sound(tmp_path: Path) -> None:
    places = {"plan": slice(0, 4955), "rest": slice(4955, -3), "pad": slice(-3, None)}
    shapes = {"desire": [1, 25, 8], "traffic_convention": (0, 2)}  # a free axis reads as 0
    found = read_metadata(
        written(
            tmp_path / "m.pkl", output_slices=places, input_shapes=shapes, model_checkpoint=None
        )
    )
    assert found.slices == places
    assert found.input_shapes == {"desire": (1, 25, 8), "traffic_convention": (0, 2)}
    assert found.checkpoint == ""


def nested(depth: int) -> Any:
    """Return lists of lists that share their parts: small as a pickle, endless as text."""
    value: Any = "x"
    for _ in range(depth):
        value = (value,) * 10
    return value


@pytest.mark.parametrize("value", [nested(12), slice(nested(12), slice(nested(12), 1))])
def test_a_pickle_that_is_endless_as_text(value: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read_metadata(written(tmp_path / "m.pkl", output_slices={"plan": value}))
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("changes", [c for c, _ in BAD_METADATA])
def test_the_same_beside_a_file(changes: Any, copy: Path) -> None:
    written(copy / "driving_policy_metadata.pkl", **changes)
    found = check(copy)
    assert found["metadata file"].status == FAIL
    assert found["metadata file"].remedy


@pytest.mark.parametrize(
    "contents",
    [b"", b"\x80\x04", b"nonsense", b"\x80\x04]\x94.", pickle.dumps({}), pickle.dumps(7)],
)
def test_metadata_that_are_none(contents: bytes, copy: Path) -> None:
    (copy / "driving_policy_metadata.pkl").write_bytes(contents)
    assert check(copy)["metadata file"].status == FAIL


@pytest.mark.parametrize("text", ["%%%", "äöü", "", codecs.encode(b"abc", "base64").decode()])
def test_slices_in_the_file_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="output_slices"):
        slices_from_properties({"output_slices": text}, "it")


def test_a_pointer_of_git_lfs_is_named_everywhere(copy: Path) -> None:
    for name in (
        "driving_policy_metadata.pkl",
        "driving_policy_probe.npz",
        "driving_policy_tinygrad.pkl",
    ):
        (copy / name).write_text(POINTER)
    found = check(copy)
    for name in ("metadata file", "runs", "tinygrad pickle"):
        assert found[name].status == FAIL
        assert "Git LFS pointer for a file of 14,060,847 bytes" in found[name].found
        assert "git lfs pull" in found[name].remedy
    path = copy / "driving_policy.onnx"
    path.write_text(POINTER)
    for read in (lambda: check(copy), lambda: load_network(path), lambda: read_onnx(path)):
        with pytest.raises(InputError, match=r"Git LFS pointer .* git lfs pull"):
            read()


def external(folder: Path) -> Path:
    """Move the weights of the file into another one."""
    path = folder / "driving_policy.onnx"
    proto = onnx.load(str(path))
    forget_hash(proto)
    onnx.save(
        proto,
        str(path),
        save_as_external_data=True,
        location="driving_policy.data",
        size_threshold=0,
    )
    return folder / "driving_policy.data"


def test_weights_in_another_file(copy: Path) -> None:
    data = external(copy)
    found = check(copy)
    assert found["one file"].status == FAIL
    assert "driving_policy.data" in found["one file"].found
    assert "save_as_external_data=False" in found["one file"].remedy
    assert [c.name for c in failed(list(found.values()))] == ["one file"]  # the rest is sound
    data.write_text(POINTER)
    with pytest.raises(InputError, match=r"weights in another file.*driving_policy\.data.*Git LFS"):
        check(copy)
    data.unlink()
    for read in (lambda: check(copy), lambda: load_network(copy / "driving_policy.onnx")):
        with pytest.raises(
            InputError, match=r"weights in another file.*driving_policy\.data.*embed"
        ):
            read()


@pytest.mark.parametrize("cut", [1, 1000])
def test_weights_that_are_cut_short(cut: int, copy: Path) -> None:
    data = external(copy)
    data.write_bytes(data.read_bytes()[:cut])
    with pytest.raises(InputError, match="weights of"):
        check(copy)


@pytest.mark.parametrize("option", ["probe", "metadata", "pickle"])
def test_a_file_that_is_named_must_be_there(option: str, copy: Path) -> None:
    with pytest.raises(InputError, match=rf"{option}=.*none\.x"):
        check(copy, **{option: str(copy / "none.x")})


def edited(folder: Path, change: Any) -> dict[str, Check]:
    path = str(folder / "driving_policy.onnx")
    proto = onnx.load(path)
    change(proto)
    forget_hash(proto)
    onnx.save(proto, path)
    return check(folder)


def no_opset(proto: Any) -> None:
    del proto.opset_import[:]


def other_domain(proto: Any) -> None:
    del proto.opset_import[:]
    proto.opset_import.append(helper.make_opsetid("com.example", 1))


def future_opset(proto: Any) -> None:
    proto.opset_import[0].version = 999


def future_format(proto: Any) -> None:
    proto.ir_version = 99


def no_graph_output_type(proto: Any) -> None:
    proto.graph.output[0].ClearField("type")


def unknown_type(proto: Any) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = 99


def a_sequence(proto: Any) -> None:
    proto.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = 1


def doubles(proto: Any) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def unknown_operator(proto: Any) -> None:
    proto.graph.node[0].op_type = "Wobble"


def renamed_output(proto: Any) -> None:
    proto.graph.output[0].name = "result"


def free_output(proto: Any) -> None:
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "N"


def no_inputs(proto: Any) -> None:
    del proto.graph.input[:]


def broken_weight(proto: Any) -> None:
    proto.graph.initializer[0].raw_data = b"xy"


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (no_opset, "graph", "operator set"),
        (other_domain, "graph", "operator set"),
        (future_opset, "graph", "opset 999"),
        (future_format, "graph", "ir_version"),
        (no_graph_output_type, "output", "shape ()"),
        (unknown_type, "input shapes", "type 99"),
        (a_sequence, "input shapes", ""),
        (doubles, "input shapes", "double"),
        (unknown_operator, "graph", "Wobble"),
        (renamed_output, "output", "result"),
        (free_output, "output", "N"),
        (no_inputs, "input names", "missing"),
        (broken_weight, "graph", ""),
    ],
)
def test_graphs_that_are_wrong(change: Any, name: str, words: str, copy: Path) -> None:
    found = edited(copy, change)
    assert found[name].status == FAIL
    assert words in found[name].found
    for result in found.values():
        assert "\n" not in result.found
        assert result.status != FAIL or result.remedy


def test_a_reason_of_onnxruntime_is_shown_whole(copy: Path) -> None:
    found = edited(copy, unknown_operator)
    assert "Wobble" in found["runs"].found
    with pytest.raises(InputError, match="Wobble"):
        load_network(copy / "driving_policy.onnx")


def test_what_onnxruntime_puts_before_the_reason_is_left_out() -> None:
    text = (
        "[ONNXRuntimeError] : 1 : FAIL : Load model from /a/b.onnx failed:/onnxruntime_src/onnxruntime/"
        "core/graph/model.cc:181 onnxruntime::Model::Model(onnx::ModelProto&&) Unsupported model IR "
        "version: 99, max supported IR version: 11\n"
    )
    assert one_line(text).endswith("Unsupported model IR version: 99, max supported IR version: 11")
    assert "/a/b.onnx" not in one_line(text)
    long = one_line("start " + "x" * 2000 + " the end")
    assert len(long) < 450
    assert long.startswith("start")
    assert long.endswith("the end")


@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_an_onnx_file_that_is_cut_short(size: int, copy: Path) -> None:
    path = copy / "driving_policy.onnx"
    path.write_bytes(path.read_bytes()[:size])
    for read in (lambda: check(copy), lambda: load_network(path)):
        with pytest.raises(InputError, match=r"driving_policy\.onnx"):
            read()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "driving_policy.onnx").mkdir()
    with pytest.raises(InputError, match="there is no file"):
        check(tmp_path)


@pytest.mark.parametrize(
    "change", ["zip", "empty", "npy", "object", "short", "words", "scalar", "shape"]
)
def test_probes_that_are_none(change: str, copy: Path) -> None:
    path = copy / "driving_policy_probe.npz"
    arrays: dict[str, Any] = {f"input/{n}": a for n, a in example_inputs(POLICY).items()}
    if change == "zip":
        path.write_bytes(b"PK\x03\x04" + b"\x00" * 50)
    elif change == "empty":
        path.write_bytes(b"")
    elif change == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif change == "short":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        new = {
            "object": np.array([{}], dtype=object),
            "words": np.full((8, 1, 25, 8), "x"),
            "scalar": np.array(3.0),
            "shape": np.zeros((8, 1, 24, 8)),
        }[change]
        np.savez(path, **arrays | {"input/desire": new})
    found = check(copy)
    assert found["runs"].status == FAIL
    assert "probe" in found["runs"].found
    with pytest.raises(InputError):
        read_probe(path, POLICY)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("driven_curvature", np.zeros(3)),
        ("v_ego", np.full(8, "fast")),
        ("raw_frames", np.zeros((8, 2, 10, 10), np.uint8)),
        ("outputs", np.zeros(7)),
        ("meaning/plan", np.full(8, "x")),
        ("driven_curvature", np.full(8, np.nan)),
    ],
)
def test_probes_whose_other_arrays_are_wrong(name: str, values: Any, copy: Path) -> None:
    path = copy / "driving_policy_probe.npz"
    arrays = {f"input/{n}": a for n, a in example_inputs(POLICY).items()}
    np.savez(path, **arrays | {name: values})
    found = check(copy)
    assert found["runs"].status == FAIL
    assert name in found["runs"].found


def test_markup_in_names_is_only_text(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from steerlab.experiments import verify_export as study

    places = {"[/]plan[red]": slice(0, 4955), "pad": slice(4955, 4968)}
    text = codecs.encode(pickle.dumps(places), "base64").decode()
    path = str(copy / "driving_policy.onnx")
    proto = onnx.load(path)
    helper.set_model_props(proto, {"output_slices": text, "model_checkpoint": "[/] [bold]x"})
    forget_hash(proto)
    onnx.save(proto, path)
    with pytest.raises(SystemExit):
        study.main([f"model={path}", "tinygrad=false", f"output={copy / 'out'}"])
    assert "[/] [bold]x" in " ".join(capsys.readouterr().out.split())


def test_a_network_of_another_release_is_named_before_it_runs(copy: Path) -> None:
    network = load_network(copy / "driving_policy.onnx")
    with pytest.raises(InputError, match="takes lateral_control_params, prev_desired_curv"):
        Runner("sunnypilot-2025-08", network)
    with pytest.raises(InputError, match="lacks desire_pulse"):
        Runner("openpilot-0.11.0", network)
    with pytest.raises(InputError, match="no plan"):
        Runner(C, network._replace(slices={"pose": slice(0, 12)}))


def test_latency_on_a_busy_machine_is_no_verdict(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_busy", lambda own, wall: "the load is 9.0 on 2 cores")
    found = check(copy, latency_ms=1e-9)["latency"]
    assert found.status == NOTE
    assert "the load is 9.0" in found.found
    monkeypatch.setattr(runtime, "_busy", lambda own, wall: "")
    assert check(copy, latency_ms=1e-9)["latency"].status == FAIL


def test_what_counts_as_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    monkeypatch.setattr(runtime.os, "cpu_count", lambda: 4)
    assert not runtime._busy(99.0, 100.0)
    assert "50%" in runtime._busy(50.0, 100.0)
    monkeypatch.setattr(runtime.os, "getloadavg", lambda: (3.9, 0.1, 0.1))
    assert "3.9 on 4" in runtime._busy(99.0, 100.0)


FAILURES = {
    "libLLVM 14": (
        r"raise RuntimeError('<string>:2:24: error: expected type\ndefine void @E(ptr x)\n  ^\n')",
        r"error: expected type; this tinygrad needs a newer libLLVM",
    ),
    "clang": (
        r"raise ValueError('compile failed\n<stdin>:3:5: error: no type half\n half\n ^~~~\n')",
        r"ValueError: compile failed <stdin>:3:5: error: no type half$",
    ),
    "an old one": (
        "raise AttributeError(\"no attribute 'OnnxRunner'\")",
        "no attribute 'OnnxRunner'$",
    ),
    "an exit": ("import sys; sys.exit('needs Python 3.13')", "needs Python 3.13$"),
    "no word": ("import os; os._exit(3)", "ended without a word"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_the_cause_and_not_the_caret(kind: str, tmp_path: Path) -> None:
    code, words = FAILURES[kind]
    (tmp_path / "tinygrad").mkdir()
    (tmp_path / "tinygrad" / "__init__.py").write_text(code)
    with pytest.raises(InputError, match=words):
        supported_operators(tmp_path)


def constant_steering(proto: Any) -> None:
    """The plan is the same whatever the inputs; desired_curvature is not."""
    scale = np.ones((1, 4968), np.float32)
    scale[:, :4955] = 0.0
    for node in proto.graph.node:
        node.output[:] = ["x" if n == "outputs" else n for n in node.output]
    proto.graph.node.append(helper.make_node("Mul", ["x", "scale"], ["outputs"]))
    proto.graph.initializer.append(numpy_helper.from_array(scale, "scale"))


def against_its_head(proto: Any) -> None:
    """desired_curvature says the opposite of the plan: on random inputs a sound policy may."""
    scale = np.ones((1, 4968), np.float32)
    scale[:, 4963] = -1.0
    for node in proto.graph.node:
        node.output[:] = ["x" if n == "outputs" else n for n in node.output]
    proto.graph.node.append(helper.make_node("Mul", ["x", "scale"], ["outputs"]))
    proto.graph.initializer.append(numpy_helper.from_array(scale, "scale"))


@pytest.mark.parametrize("lone", [True, False])
def test_without_recorded_inputs_steering_is_not_judged(lone: bool, copy: Path) -> None:
    """A file alone, or beside a probe of random inputs, as export_model writes it by default."""
    if lone:
        (copy / "driving_policy_probe.npz").unlink()
    found = edited(copy, against_its_head)
    assert found["steering"].status == "skip"
    assert "no recorded inputs" in found["steering"].found
    assert found["plan"].status == "pass"


def test_a_plan_that_ignores_its_inputs_is_caught_on_any(copy: Path) -> None:
    (copy / "driving_policy_probe.npz").unlink()
    assert edited(copy, constant_steering)["steering"].status == FAIL
