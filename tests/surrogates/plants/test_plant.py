"""Plants: comma's graph in three runtimes, draws, and refused files."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings, strategies as st
from onnx import TensorProto, helper

from steerlab.errors import InputError
from steerlab.readers.graphs import open_session
from steerlab.surrogates.plants.analytic import AnalyticPlant
from steerlab.surrogates.plants.base import cumulative, draw, probabilities
from steerlab.surrogates.plants.last_position import keep_last_position
from steerlab.surrogates.plants.late_softmax import divide_late
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.plants.onnx import OnnxPlant, read_model
from steerlab.surrogates.plants.tokens import BINS, decode, encode
from steerlab.surrogates.segments.data import load_segments


def histories(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Plausible histories, smooth and within the range of real drives."""
    rng = np.random.default_rng(seed)
    states = np.empty((count, 20, 4), dtype=np.float32)
    states[..., 0] = np.clip(rng.normal(0, 0.3, (count, 20)).cumsum(1) * 0.2, -2, 2)
    states[..., 1] = rng.normal(0, 0.3, (count, 1))
    states[..., 2] = rng.uniform(3, 38, (count, 1))
    states[..., 3] = rng.normal(0, 0.5, (count, 1))
    return states, encode(rng.normal(0, 0.03, (count, 20)).cumsum(1) + rng.normal(0, 1, (count, 1)))


def tiny_model(path: Path, **change: Any) -> Path:
    """Write a small valid model: logits = linear in the states, position by position."""
    shapes = {"states": ["b", 20, 4], "out": ["b", 20, 1024]} | change
    weight = np.random.default_rng(0).normal(size=(4, 1024)).astype(np.float32)
    embedding = np.random.default_rng(1).normal(size=(1024, 1024)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["states", "w"], ["from_states"]),
            helper.make_node("Gather", ["e", "tokens"], ["from_tokens"]),
            helper.make_node("Add", ["from_states", "from_tokens"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["out"]),
        ],
        "g",
        [
            helper.make_tensor_value_info(
                str(change.get("name", "states")), TensorProto.FLOAT, shapes["states"]
            ),
            helper.make_tensor_value_info("tokens", TensorProto.INT64, ["b", 20]),
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, shapes["out"])],
        [
            onnx.numpy_helper.from_array(weight, "w"),
            onnx.numpy_helper.from_array(embedding, "e"),
        ],
    )
    if "name" in change:
        graph.node[0].input[0] = str(change["name"])
    opset = [helper.make_opsetid("", 14)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path


def test_last_position_shortcut_on_a_small_graph(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "m.onnx")
    short = keep_last_position(read_model(path))
    assert sum(n.output[0].endswith("/last") for n in short.graph.node) >= 1
    states, tokens = histories(9)
    np.testing.assert_array_equal(
        OnnxPlant(path).logits(states, tokens), OnnxPlant(path, fast=True).logits(states, tokens)
    )


@pytest.mark.parametrize("runtime", ["fast", "torch"])
def test_runtimes_agree_on_commas_model(shared: Path, runtime: str) -> None:
    path = shared / "tinyphysics/tinyphysics.onnx"
    states, tokens = histories(130)
    exact = load_plant(path).logits(states, tokens)
    other = load_plant(path, runtime, "cpu").logits(states, tokens)
    assert np.abs(exact - other).max() < {"fast": 2e-5, "torch": 5e-5}[runtime]


def test_fast_computes_less(shared: Path) -> None:
    model = keep_last_position(read_model(shared / "tinyphysics/tinyphysics.onnx"))
    chosen = [n.output[0] for n in model.graph.node if "/last" in n.output[0]]
    assert [n.rpartition("/")[2] for n in sorted(chosen)] == ["last", "last", "last_query"]
    used = {name for node in model.graph.node for name in node.input}
    assert set(chosen) <= used


def test_a_row_does_not_depend_on_its_batch(shared: Path) -> None:
    plant = OnnxPlant(shared / "tinyphysics/tinyphysics.onnx")
    states, tokens = histories(70)
    whole = plant.logits(states, tokens)
    for rows in (slice(0, 1), slice(3, 19), slice(5, 70)):
        np.testing.assert_array_equal(plant.logits(states[rows], tokens[rows]), whole[rows])


def test_soft_prediction_is_differentiable_and_meets_the_tokens(shared: Path) -> None:
    plant = load_plant(shared / "tinyphysics/tinyphysics.onnx", "torch", "cpu")
    states, tokens = histories(8)
    s = torch.from_numpy(states).requires_grad_()
    c = torch.from_numpy(decode(tokens).astype(np.float32)).requires_grad_()
    model = plant.model  # type: ignore[attr-defined]
    soft = model.forward_soft(s, c)
    torch.testing.assert_close(
        soft, model(s, torch.from_numpy(tokens)), atol=5e-3, rtol=0.0
    )  # float32 places of the values lie up to 1e-4 of a bin beside the tokens
    c = (c.detach() - 0.004).requires_grad_()  # between two tokens, where the slope is one number
    model.expect(model.forward_soft(s, c)).sum().backward()
    assert s.grad is not None
    assert c.grad is not None
    exact = copy.deepcopy(model).double()
    for tensor, place in ((s, (3, 17, 0)), (c, (5, 19))):
        change = []
        for step in (-1e-5, 1e-5):
            moved = [t.detach().double() for t in (s, c)]
            moved[0 if tensor is s else 1][place] += step
            change.append(exact.expect(exact.forward_soft(*moved)).sum())
        slope = (change[1] - change[0]) / 2e-5
        assert tensor.grad is not None
        assert float(tensor.grad[place]) == pytest.approx(float(slope), rel=1e-2)
    np.testing.assert_allclose(plant.expect(states, tokens), model.expect(soft).detach(), atol=2e-4)


def test_draw_is_numpy_choice() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (200, 1024)).astype(np.float32)
    for row, seed in enumerate(range(200)):
        chances = probabilities(logits[row : row + 1])[0]
        wanted = np.random.RandomState(seed).choice(1024, p=chances)
        uniform = np.random.RandomState(seed).random_sample(1)
        assert draw(logits[row : row + 1], uniform)[0] == wanted


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_analytic_rows_are_independent_bit_for_bit(seed: int) -> None:
    states, tokens = histories(17, seed)
    whole = AnalyticPlant().logits(states, tokens)
    for i in range(17):
        np.testing.assert_array_equal(
            AnalyticPlant().logits(states[i : i + 1], tokens[i : i + 1])[0], whole[i]
        )


def test_analytic_plant_has_the_response_it_claims() -> None:
    plant = AnalyticPlant()
    states = np.zeros((1, 20, 4), dtype=np.float32)
    states[..., 2] = 32.0
    tokens = np.full((1, 20), encode(0.0))
    response = []
    for _ in range(120):
        states = np.roll(states, -1, axis=1)
        states[:, -1] = (1.0, 0.0, 32.0, 0.0)
        value = plant.mean(states, tokens)
        response.append(float(value[0]))
        tokens = np.roll(tokens, -1, axis=1)
        tokens[:, -1] = np.abs(BINS - value[:, None]).argmin(1)
    steady = float(plant.gain(np.array(32.0)))
    assert abs(response[0]) < 0.02  # one dead step
    assert 0.45 < response[2] / steady < 0.65  # half of it at the third step
    assert abs(response[-1] / steady - 1) < 0.03
    deviation = np.sqrt(probabilities(plant.logits(states, tokens)) @ BINS**2
                        - plant.expect(states, tokens) ** 2)  # fmt: skip
    assert abs(deviation[0] - plant.DEVIATION) < 2e-3


def test_plants_travel_to_other_processes(tmp_path: Path) -> None:
    states, tokens = histories(5)
    plant = OnnxPlant(tiny_model(tmp_path / "m.onnx"), fast=True)
    sent = pickle.loads(pickle.dumps(plant))
    assert sent.fast
    np.testing.assert_array_equal(plant.logits(states, tokens), sent.logits(states, tokens))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "inputs"}, "has inputs .*'inputs'"),
        ({"states": ["b", 30, 4], "out": ["b", 30, 1024]}, "30"),
        ({"out": ["b", 20, 512]}, "512"),
    ],
)
def test_other_signatures_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_plant(tiny_model(tmp_path / "m.onnx", **change))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_plant(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_text("no model")
    with pytest.raises(InputError, match="not an ONNX file"):
        load_plant(tmp_path / "bad.onnx")
    with pytest.raises(InputError, match="did you mean 'exact'"):
        load_plant("default", "exakt")
    with pytest.raises(InputError, match="not comma's transformer"):
        load_plant(tiny_model(tmp_path / "m.onnx"), "torch", "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["fast", "torch"])
def test_runtimes_agree_on_real_histories(shared: Path, runtime: str) -> None:
    segments = load_segments(shared / "tinyphysics/segments.zip", 64)
    steer = segments.steer[:, 60:80]
    parts = [steer, *(getattr(segments, n)[:, 60:80] for n in ("roll_lataccel", "v_ego", "a_ego"))]
    states = np.stack(parts, axis=-1).astype(np.float32)
    tokens = encode(segments.target[:, 59:79])
    path = shared / "tinyphysics/tinyphysics.onnx"
    exact = load_plant(path).logits(states, tokens)
    bound = {"fast": 2e-5, "torch": 5e-5}[runtime]
    assert np.abs(exact - load_plant(path, runtime, "cpu").logits(states, tokens)).max() < bound


def one_by_one(plant: OnnxPlant, states: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return the distributions of the whole graph, asked as the official simulator asks."""
    rows = [slice(i, i + 1) for i in range(len(states))]
    return np.concatenate([cumulative(plant.logits(states[r], tokens[r])) for r in rows])


def test_draws_of_exact_are_those_of_the_whole_graph(shared: Path) -> None:
    """At the very edges between tokens too, where the quicker graph may be wrong."""
    plant = OnnxPlant(shared / "tinyphysics/tinyphysics.onnx")
    assert plant._quick is not None
    states, tokens = histories(16, 1)
    cdf = one_by_one(plant, states, tokens)
    edges = cdf[np.arange(16), (cdf < 0.5).sum(axis=1)]
    for uniforms in (edges, np.nextafter(edges, 0), edges - 1e-7, np.linspace(0, 0.999, 16)):
        wanted = (cdf <= uniforms[:, None]).sum(axis=1)
        np.testing.assert_array_equal(plant.sample(states, tokens, uniforms), wanted)


def test_a_quicker_graph_that_is_off_is_not_used(shared: Path) -> None:
    plant = OnnxPlant(shared / "tinyphysics/tinyphysics.onnx")
    quick: Any = plant._quick
    calls = 0

    class Off:
        def run(self, names: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            nonlocal calls
            calls += 1
            return [quick.run(names, feeds)[0] + np.linspace(0, 1, 1024, dtype=np.float32)]

    plant._quick = Off()
    states, tokens = histories(16, 2)
    cdf = one_by_one(plant, states, tokens)
    uniforms = np.linspace(0.01, 0.99, 16)
    uniforms[3] = cdf[3, (cdf[3] < 0.5).sum()]
    plant._keep_quick_if_it_agrees()
    assert plant._quick is None
    wanted = (cdf <= uniforms[:, None]).sum(axis=1)
    np.testing.assert_array_equal(plant.sample(states, tokens, uniforms), wanted)


def attention(scale: float) -> onnx.ModelProto:
    """Return a graph of softmax(scale x y) z, the second half of every row masked."""
    mask = np.where(np.arange(6) < 3, 0, -np.inf).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "y"], ["xy"]),
        helper.make_node("Mul", ["xy", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "mask"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "z"], ["out"]),
    ]
    shapes = {"x": [2, 5, 4], "y": [2, 4, 6], "z": [2, 6, 3], "out": [2, 5, 3]}
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    }
    constants = {"scale": np.float32(scale), "mask": mask}
    graph = helper.make_graph(
        nodes, "attention", [values[n] for n in "xyz"], [values["out"]],
        [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def test_a_late_division_is_the_same_attention() -> None:
    rng = np.random.default_rng(0)
    shapes = {"x": (2, 5, 4), "y": (2, 4, 6), "z": (2, 6, 3)}
    feeds = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    scores = np.where(np.arange(6) < 3, feeds["x"] @ feeds["y"], -np.inf)
    weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    changed = divide_late(attention(1.0))
    assert "Softmax" not in {node.op_type for node in changed.graph.node}
    (found,) = open_session(changed.SerializeToString(), "test").run(None, feeds)
    np.testing.assert_allclose(found, weights @ feeds["z"], rtol=1e-5, atol=1e-6)
    (lost,) = open_session(divide_late(attention(1e4)).SerializeToString(), "test").run(None, feeds)
    assert not np.isfinite(lost).all()  # which OnnxPlant notices, see below


def test_what_is_not_finite_is_asked_of_the_whole_graph(shared: Path) -> None:
    plant = OnnxPlant(shared / "tinyphysics/tinyphysics.onnx")
    states, tokens = histories(8, 3)
    quick: Any = plant._quick

    class Lost:
        def run(self, names: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [np.full_like(quick.run(names, feeds)[0], np.nan)]

    plant._quick = Lost()
    uniforms = np.linspace(0.05, 0.95, 8)
    cdf = one_by_one(plant, states, tokens)
    wanted = (cdf <= uniforms[:, None]).sum(axis=1)
    np.testing.assert_array_equal(plant.sample(states, tokens, uniforms), wanted)
