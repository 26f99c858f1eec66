"""A sound file passes; a file broken in each way that was seen is caught, with the right remedy."""

import codecs
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from steerlab.errors import InputError
from steerlab.exporters.metadata import onnx_properties, write_metadata
from steerlab.exporters.openpilot import export_model
from steerlab.exporters.sample import SPEED, SampleNetwork
from steerlab.exporters.verify import FAIL, Check, Options, failed, verify_export
from steerlab.exporters.verify.runtime import difference
from steerlab.openpilot.contracts import contract, plan_column
from steerlab.openpilot.images import pack_i420
from steerlab.openpilot.metadata import CHECKSUM, Metadata
from steerlab.openpilot.probe import Probe, example_inputs, write_probe
from steerlab.readers.arrays import read_arrays
from steerlab.readers.graphs import forget_hash

C = contract("openpilot-0.10.0")
POLICY = C.model("driving_policy")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a sound export, whose probe knows what was driven."""
    folder = tmp_path_factory.mktemp("sound")
    network = SampleNetwork(POLICY)
    inputs = example_inputs(POLICY)
    export_model(network, C, POLICY, folder, probe_inputs=inputs, half=False, tinygrad=False)
    arrays: dict[str, Any] = read_arrays(folder / "driving_policy_probe.npz")
    plan = arrays["meaning/plan_hypotheses"][:, 0]
    curvature = plan[:, 0, plan_column("yaw_rate")] / SPEED
    speed = np.full(len(curvature), SPEED)
    np.savez(folder / "driving_policy_probe.npz", **arrays, driven_curvature=curvature, v_ego=speed)
    return folder


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copy"))


def check(folder: Path, *, probe: bool = True, **options: Any) -> list[Check]:
    if not probe:
        (folder / "driving_policy_probe.npz").unlink()
    return verify_export(
        folder / "driving_policy.onnx",
        C,
        options=Options(**{"tinygrad": False, "runs": 3} | options),
    )


def edit(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    path = str(folder / "driving_policy.onnx")
    proto = onnx.load(path)
    change(proto)
    forget_hash(proto)
    onnx.save(proto, path)


def append(proto: onnx.ModelProto, nodes: list[Any], constants: dict[str, Any]) -> None:
    """Put nodes between the graph's result, now called ``x``, and ``outputs``."""
    for node in proto.graph.node:
        node.output[:] = ["x" if name == "outputs" else name for name in node.output]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )


def status(results: list[Check], name: str) -> Check:
    return next(r for r in results if r.name == name)


def assert_caught(results: list[Check], name: str, found: str, remedy: str) -> None:
    result = status(results, name)
    assert result.status == FAIL
    assert found in result.found
    assert remedy in result.remedy


def test_a_sound_file_passes(copy: Path) -> None:
    results = check(copy)
    assert not failed(results)
    skipped = {r.name for r in results if r.status == "skip"}
    assert skipped == {"images", "tinygrad", "tinygrad pickle", "closed loop"}
    assert "as was driven (correlation 1.00)" in status(results, "steering").found


def test_a_sound_file_passes_without_a_probe(copy: Path) -> None:
    results = check(copy, probe=False)
    assert not failed(results)
    assert {"meaning", "torch parity"} <= {r.name for r in results if r.status == "skip"}


def interleave(width: int, hypotheses: int) -> Any:
    order = np.arange(width).reshape(hypotheses, -1)
    size = (order.shape[1] - (hypotheses > 1)) // 2
    pairs = np.stack([order[:, :size], order[:, size : 2 * size]], -1).reshape(hypotheses, -1)
    return np.concatenate([pairs, order[:, 2 * size :]], axis=1).ravel()


def interleaved(proto: onnx.ModelProto) -> None:
    index = np.arange(4968)
    index[:4955] = interleave(4955, 5)
    index[4963:4965] = interleave(2, 1) + 4963
    append(
        proto, [helper.make_node("Gather", ["x", "index"], ["outputs"], axis=1)], {"index": index}
    )


@pytest.mark.parametrize(("probe", "name"), [(True, "meaning"), (False, "plan")])
def test_1_interleaved(copy: Path, probe: bool, name: str) -> None:
    edit(copy, interleaved)
    assert_caught(check(copy, probe=probe), name, "plan", "interleaved: write all means")


def properties(folder: Path, **values: str) -> None:
    def change(proto: onnx.ModelProto) -> None:
        del proto.metadata_props[:]
        helper.set_model_props(proto, values)

    edit(folder, change)


def test_2_slices_as_tuples(copy: Path) -> None:
    tuples = {n: (s.start, s.stop) for n, s in POLICY.slices.items()}
    text = codecs.encode(pickle.dumps(tuples), "base64").decode()
    properties(copy, output_slices=text)
    assert_caught(check(copy), "slices in the ONNX file", "is the tuple", "slice object")


def test_2_no_slices_in_the_file(copy: Path) -> None:
    properties(copy)
    results = check(copy)
    assert_caught(results, "slices in the ONNX file", "no 'output_slices'", "build reads them")
    assert status(results, "heads").status == "pass"  # from the metadata file


def rewrite_metadata(folder: Path, **changes: Any) -> None:
    """Change what the metadata say, as another program would have written them: without our checksum."""
    path = folder / "driving_policy_metadata.pkl"
    found = pickle.loads(path.read_bytes())
    del found[CHECKSUM]
    path.write_bytes(pickle.dumps(found | changes))


def test_2_metadata_with_tuples(copy: Path) -> None:
    rewrite_metadata(copy, output_slices={"plan": (0, 4955)})
    assert_caught(check(copy), "metadata file", "the tuple (0, 4955)", "slice object")


def test_2_metadata_without_outputs(copy: Path) -> None:
    rewrite_metadata(copy, output_shapes={"plan": (1, 4955)})
    assert_caught(check(copy), "metadata file", "no 'outputs'", "(1, N)")


def test_metadata_that_executes_is_refused(copy: Path, capsys: Any) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return print, ("executed",)

    (copy / "driving_policy_metadata.pkl").write_bytes(pickle.dumps({"a": Evil()}))
    assert status(check(copy), "metadata file").status == FAIL
    assert "executed" not in capsys.readouterr().out


def test_3_weights_called_a_pickle(copy: Path) -> None:
    weights = {"layer.weight": np.zeros((3, 3))}
    (copy / "driving_policy_tinygrad.pkl").write_bytes(pickle.dumps(weights))
    assert_caught(check(copy), "tinygrad pickle", "no captured TinyJit", "do not pickle weights")


def test_4_recurrent_operator(copy: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        constants = {"gru_x": (25, 1, 4), "gru_w": (1, 9, 4), "gru_r": (1, 9, 3)}
        for name, shape in constants.items():
            zeros = numpy_helper.from_array(np.zeros(shape, np.float32), name)
            proto.graph.initializer.append(zeros)
        proto.graph.node.append(helper.make_node("GRU", list(constants), ["h"], hidden_size=3))

    edit(copy, change)
    assert_caught(check(copy), "operators", "no GRU", "step by step")


def test_5_free_batch(copy: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"

    edit(copy, change)
    assert_caught(check(copy), "input shapes", "free axis", "(1, 25, 8), batch 1")


def test_5_three_outputs(copy: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        names, sizes = ["plan", "desired_curvature", "desire_state"], [4955, 2, 11]
        append(proto, [helper.make_node("Split", ["x", "sizes"], names, axis=1)], {"sizes": sizes})
        del proto.graph.output[:]
        for name, size in zip(names, sizes, strict=True):
            value = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
            proto.graph.output.append(value)

    edit(copy, change)
    assert_caught(check(copy), "output", "3 output(s): plan", "one vector named outputs")


def scale_plan(proto: onnx.ModelProto, factors: Any) -> None:
    scale = np.ones(4968, np.float32)
    scale[:4955].reshape(5, 991)[:, :495] = np.tile(factors, 33)
    append(proto, [helper.make_node("Mul", ["x", "scale"], ["outputs"])], {"scale": scale})


def test_6_only_the_curvature_is_trained(copy: Path) -> None:
    edit(copy, lambda proto: scale_plan(proto, np.zeros(15, np.float32)))
    results = check(copy, probe=False)
    assert_caught(results, "steering", "does not steer", "train the plan: it steers")


def test_6_a_plan_without_training(copy: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 1, 15).astype(np.float32)
    edit(copy, lambda proto: scale_plan(proto, noise))
    assert_caught(check(copy), "plan", "contradicts itself", "train every column")
    assert status(check(copy, untrained=True), "plan").status == "skip"
    alone = status(check(copy, probe=False), "plan")  # random inputs confuse sound policies too
    assert alone.status == "skip"
    assert "no recorded inputs" in alone.found


def test_7_an_input_was_dropped(copy: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        name = "prev_desired_curv"
        kept = [i for i in proto.graph.input if i.name != name]
        del proto.graph.input[:]
        proto.graph.input.extend(kept)
        zeros = numpy_helper.from_array(np.zeros((1, 25, 1), np.float32), name)
        proto.graph.initializer.append(zeros)

    edit(copy, change)
    assert_caught(check(copy), "input names", "missing prev_desired_curv", "drops unused ones")


def test_7_an_input_that_nothing_reads(copy: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        for node in proto.graph.node:
            node.input[:] = ["zeros" if n == "prev_desired_curv" else n for n in node.input]
        zeros = numpy_helper.from_array(np.zeros((1, 25, 1), np.float32), "zeros")
        proto.graph.initializer.append(zeros)

    edit(copy, change)
    assert_caught(check(copy), "input names", "no node reads prev_desired_curv", "add zero times")


def softplus(proto: onnx.ModelProto) -> None:
    """Write the inverse of softplus where the logarithm of a standard deviation belongs."""
    is_std = np.zeros((1, 4968), bool)
    is_std[0, :4955].reshape(5, 991)[:, 495:990] = True
    is_std[0, 4964] = True
    make = helper.make_node
    nodes = [
        make("Min", ["x", "limit"], ["small"]),  # the extreme inputs would overflow
        make("Where", ["is_std", "small", "one"], ["log_std"]),
        make("Exp", ["log_std"], ["std"]),
        make("Exp", ["std"], ["grown"]),
        make("Sub", ["grown", "one"], ["minus"]),
        make("Log", ["minus"], ["inverse"]),
        make("Where", ["is_std", "inverse", "x"], ["outputs"]),
    ]
    append(proto, nodes, {"is_std": is_std, "one": np.float32(1), "limit": np.float32(4)})


def test_8_softplus(copy: Path) -> None:
    edit(copy, softplus)
    assert_caught(check(copy), "meaning", "stds", "write their logarithm")


def tiny(folder: Path, id: str, name: str, slices: dict[str, slice], **probe: Any) -> list[Check]:
    """Verify a graph that has the inputs of a contract and nearly nothing else."""
    c = contract(id)
    model = c.model(name)
    length = max(s.stop for s in slices.values())
    nodes, terms = [], []
    for spec in model.inputs.values():
        nodes.append(helper.make_node("Cast", [spec.name], [f"{spec.name}_f"], to=1))
        nodes.append(
            helper.make_node("ReduceMean", [f"{spec.name}_f"], [f"{spec.name}_m"], keepdims=0)
        )
        terms.append(f"{spec.name}_m")
    nodes.append(helper.make_node("Sum", terms, ["sum"]))
    nodes.append(helper.make_node("Mul", ["sum", "weights"], ["outputs"]))
    types = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(i.name, types[i.dtype], i.shape) for i in model.inputs.values()],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, [1, length])],
        [numpy_helper.from_array(np.zeros((1, length), np.float32), "weights")],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    shapes = {n: i.shape for n, i in model.inputs.items()}
    metadata = Metadata(slices, shapes, {"outputs": (1, length)})
    helper.set_model_props(proto, onnx_properties(metadata))
    onnx.save(proto, str(folder / f"{name}.onnx"))
    write_metadata(folder / f"{name}_metadata.pkl", metadata)
    if probe:
        inputs = example_inputs(model, count=1) | {"img": probe.pop("img")}
        write_probe(folder / f"{name}_probe.npz", Probe(inputs, np.empty((0, 0)), **probe))
    options = Options(tinygrad=False, runs=2, untrained=True)
    return verify_export(folder / f"{name}.onnx", c, options=options)


def test_9_the_plan_of_another_release(tmp_path: Path) -> None:
    slices = {
        "plan": slice(0, 990),
        "desire_state": slice(990, 998),
        "desired_curvature": slice(998, 1000),
    }
    results = tiny(tmp_path, "openpilot-0.10.0", "driving_policy", slices)
    assert [r.name for r in failed(results)] == ["heads"]
    assert_caught(results, "heads", "plan has 990 values", "reads 4955")


@pytest.mark.parametrize("swapped", [True, False])
def test_10_phases_in_the_order_of_the_readme(tmp_path: Path, swapped: bool) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 2, 384, 512)).astype(np.uint8)
    planes = pack_i420(frames).reshape(1, 12, 128, 256)
    if swapped:
        planes = planes[:, [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]]
    slices = contract("openpilot-0.10.0").model("driving_vision").slices
    results = tiny(
        tmp_path, "openpilot-0.10.0", "driving_vision", slices, img=planes, raw_frames=frames
    )
    if swapped:
        assert_caught(results, "images", "channels 1 and 2", "not the README")
    assert [r.name for r in failed(results)] == ["images"] * swapped


def test_11_yaw_to_the_left(copy: Path) -> None:
    factors = np.ones(15, np.float32)
    factors[[plan_column("yaw"), plan_column("yaw_rate")]] = -1.0
    edit(copy, lambda proto: scale_plan(proto, factors))
    results = check(copy)
    assert_caught(results, "plan", "yaw turns against the path", "positive to the right")
    assert_caught(results, "steering", "opposite to what was driven", "positive to the right")
    assert_caught(results, "meaning", "plan_hypotheses", "")


def test_11_a_whole_mirror_image(copy: Path) -> None:
    factors = np.ones(15, np.float32)
    for name in ("y", "vy", "ay", "yaw", "yaw_rate"):
        factors[plan_column(name)] = -1.0
    edit(copy, lambda proto: scale_plan(proto, factors))
    assert_caught(check(copy), "steering", "opposite to what was driven", "positive to the right")


def test_12_vision_without_its_heads(tmp_path: Path) -> None:
    slices = {"lane_lines": slice(0, 528), "hidden_state": slice(528, 1040)}
    results = tiny(tmp_path, "openpilot-0.10.0", "driving_vision", slices)
    assert [r.name for r in failed(results)] == ["heads"]
    assert_caught(results, "heads", "missing meta, desire_pred", "needs all of")


def test_slices_that_miss_a_value(copy: Path) -> None:
    short = {n: s for n, s in POLICY.slices.items() if n != "pad"}
    properties(copy, **onnx_properties(Metadata(short, {}, {})))
    assert_caught(check(copy), "slices", "value 4965 is in no slice", "pad")


def test_a_weight_beyond_float16(copy: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        append(
            proto,
            [
                helper.make_node("Mul", ["x", "large"], ["y"]),
                helper.make_node("Div", ["y", "large"], ["outputs"]),
            ],
            {"large": np.full((1, 4968), 1e6, np.float32)},
        )

    edit(copy, change)
    assert_caught(check(copy), "float16", "1e+06", "below 65504")


def test_a_difference_does_not_depend_on_where_the_axes_point() -> None:
    """A heading's rounding moves a far point sideways; along or across the x axis is all the same."""
    model = C.model("driving_policy")
    a = np.zeros((1, model.length))
    b = a.copy()
    x, y = 32 * 15, 32 * 15 + 1  # of the first hypothesis' last point
    for across, along in ((y, x), (x, y)):
        a[:], b[:] = 0.0, 0.0
        a[0, along] = b[0, along] = 300.0
        b[0, across] = 3e-4
        assert difference(a, b, model.slices) == pytest.approx(1e-6, rel=1e-3)
        assert difference(a, b) == pytest.approx(3e-4)
    b[0, model.slices["desired_curvature"]] = 1e-3  # the other heads go value by value
    assert difference(a, b, model.slices) == pytest.approx(1e-3)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        verify_export(tmp_path / "none.onnx", C)
    (tmp_path / "x.onnx").write_bytes(b"\x00\x01nonsense")
    with pytest.raises(InputError, match="not an ONNX file"):
        verify_export(tmp_path / "x.onnx", C)


def test_newer_releases_feed_zeros_to_inputs_they_do_not_know(copy: Path) -> None:
    def rename(proto: onnx.ModelProto) -> None:
        proto.graph.input[0].name = "desire_pulse"
        for node in proto.graph.node:
            node.input[:] = ["desire_pulse" if n == "desire" else n for n in node.input]

    edit(copy, rename)
    metadata = pickle.loads((copy / "driving_policy_metadata.pkl").read_bytes())
    shapes = metadata["input_shapes"]
    rewrite_metadata(copy, input_shapes=shapes | {"desire_pulse": shapes["desire"]})
    (copy / "driving_policy_probe.npz").unlink()
    options = Options(tinygrad=False, runs=2)
    results = verify_export(
        copy / "driving_policy.onnx", contract("openpilot-0.10.1"), options=options
    )
    assert not failed(results)
    assert "fed zeros: lateral_control_params" in status(results, "input names").found
