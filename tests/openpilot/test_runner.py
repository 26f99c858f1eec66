"""The runner's queues against what modeld holds, written down frame by frame."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from steerlab.errors import InputError
from steerlab.exporters.sample import SPEED, SampleNetwork
from steerlab.openpilot.contracts import Model, contract
from steerlab.openpilot.engines import Network, TorchEngine
from steerlab.openpilot.history import DesirePulse, Queue, desire_rows, strided
from steerlab.openpilot.in_graph import HistoryInGraph, Packed, model_with_history
from steerlab.openpilot.runner import Runner


class Recorder:
    """An engine that keeps its inputs and answers with zeros, or as told."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.seen: list[dict[str, Any]] = []
        self.answer = np.zeros((1, model.length), np.float32)

    def run(self, inputs: Any) -> dict[str, Any]:
        self.seen.append({n: a.copy() for n, a in inputs.items()})
        rows = len(next(iter(inputs.values())))
        return {"outputs": np.repeat(self.answer, rows, axis=0)}


def recorder(id: str, rows: int = 1) -> tuple[Runner, Recorder]:
    model = contract(id).model("driving_policy")
    engine = Recorder(model)
    return Runner(id, Network(engine, model.slices), rows=rows), engine


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 130), st.integers(1, 3))
def test_ring_is_a_shifted_array(frames: int, rows: int) -> None:
    queue, plain = Queue(rows, 100, (2,)), np.zeros((rows, 100, 2), np.float32)
    rng = np.random.default_rng(frames)
    for _ in range(frames):
        new = rng.normal(size=(rows, 2)).astype(np.float32)
        queue.push(new)
        plain = np.concatenate([plain[:, 1:], new[:, None]], axis=1)
    np.testing.assert_array_equal(queue.all(), plain)
    np.testing.assert_array_equal(strided(queue), plain[:, 3::4])
    np.testing.assert_array_equal(desire_rows(queue), plain.reshape(rows, 25, 4, 2).max(2))


def test_features_are_every_fourth_frame_and_now() -> None:
    runner, engine = recorder("openpilot-0.10.0")
    for frame in range(1, 131):
        runner.step(features=np.full((1, 512), frame, np.float32), v_ego=10.0)
    rows = engine.seen[-1]["features_buffer"][0, :, 0]
    np.testing.assert_array_equal(rows, np.arange(34, 131, 4))
    np.testing.assert_array_equal(engine.seen[1]["features_buffer"][0, :, 0], [0] * 24 + [2])


def test_a_desire_is_one_pulse_at_its_edge() -> None:
    runner, engine = recorder("openpilot-0.10.0")
    zeros = np.zeros((1, 512), np.float32)
    for frame in range(20):
        runner.step(features=zeros, v_ego=10.0, desire=3 if 4 <= frame < 12 else 0)
    rows = np.array([s["desire"][0, :, 3] for s in engine.seen])
    assert rows.sum(axis=1).max() == 1.0  # held for 8 frames, one pulse
    first = [int(np.flatnonzero(r)[0]) if r.any() else None for r in rows]
    assert first[3] is None
    assert first[4:8] == [24, 24, 24, 24]
    assert first[8:12] == [23] * 4
    assert not engine.seen[-1]["desire"][0, :, 0].any()


def test_desire_none_gives_no_pulse_and_a_second_edge_does() -> None:
    pulse = DesirePulse(1)
    found = [pulse(d)[0].argmax() * pulse._previous[0].any() for d in (0, 3, 3, 0, 3)]
    assert found == [0, 3, 0, 0, 3]


def test_scalar_inputs_are_the_rule_of_the_contract() -> None:
    runner, engine = recorder("openpilot-0.10.0", rows=2)
    runner.step(features=np.zeros((2, 512)), v_ego=[12.0, -1.0], lateral_delay=0.2, traffic=[0, 1])
    seen = engine.seen[0]
    np.testing.assert_allclose(seen["lateral_control_params"], [[12.0, 0.3], [0.0, 0.3]])
    np.testing.assert_array_equal(seen["traffic_convention"], [[1, 0], [0, 1]])
    assert not seen["prev_desired_curv"].any()
    assert {n: a.dtype for n, a in seen.items()} == dict.fromkeys(seen, np.dtype(np.float32))


def test_image_pairs_are_200_ms_apart() -> None:
    c = contract("openpilot-0.10.0")
    vision_model, policy_model = c.model("driving_vision"), c.model("driving_policy")
    vision, policy = Recorder(vision_model), Recorder(policy_model)
    vision.answer[0, vision_model.slices["hidden_state"]] = 7.0
    runner = Runner(
        c, Network(policy, policy_model.slices), vision=Network(vision, vision_model.slices)
    )
    for frame in range(1, 8):
        planes = np.full((1, 6, 128, 256), frame, np.uint8)
        step = runner.step(image=planes, wide_image=planes + 100, v_ego=10.0)
    assert step is not None
    assert step.outputs["lane_lines"].shape == (1, 4, 33, 2)
    seen = vision.seen[-1]
    assert seen["img"][0, ::6, 0, 0].tolist() == [3, 7]
    assert seen["big_img"][0, ::6, 0, 0].tolist() == [103, 107]
    np.testing.assert_array_equal(policy.seen[-1]["features_buffer"][0, -1], 7.0)


def test_the_command_is_that_of_the_plan() -> None:
    model = contract("openpilot-0.10.0").model("driving_policy")
    network = SampleNetwork(model)
    engine = TorchEngine(Packed(network, model), list(model.inputs))
    runner = Runner("openpilot-0.10.0", Network(engine, model.slices), rows=3)
    rng = np.random.default_rng(0)
    for _ in range(3):
        step = runner.step(features=rng.normal(size=(3, 512)), v_ego=SPEED)
    assert step is not None
    np.testing.assert_allclose(
        step.desired.curvature, step.outputs["plan"][:, 0, 14] / SPEED, rtol=1e-4
    )
    np.testing.assert_allclose(step.desired.acceleration, 0.0, atol=1e-5)
    assert np.all(np.abs(step.command.curvature) < np.abs(step.desired.curvature).max())
    runner.reset(np.array([True, False, False]))
    assert runner.last.curvature[0] == 0 != runner.last.curvature[1]


def test_history_outside_and_inside_the_graph_agree() -> None:
    old, new = (contract(f"openpilot-supercombo-2026-{m}") for m in ("06", "09"))
    model = old.model("driving_supercombo")
    packed = Packed(SampleNetwork(model), model)
    target = model_with_history(new, model)
    inside = HistoryInGraph(Packed(packed.network, target), target.slices["hidden_state"])
    sizes = {n: i.shape for n, i in target.inputs.items()}
    runners = [
        Runner(old, Network(TorchEngine(packed, list(model.inputs)), model.slices)),
        Runner(
            new,
            Network(
                TorchEngine(inside, list(target.inputs), target.output_names), target.slices, sizes
            ),
        ),
    ]
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for frame in range(12):
            planes = rng.integers(0, 256, (2, 1, 6, 128, 256)).astype(np.uint8)
            steps = [
                r.step(image=planes[0], wide_image=planes[1], v_ego=9.0, desire=frame // 4)
                for r in runners
            ]
            assert steps[0] is not None
            assert steps[1] is not None
            for name, values in steps[0].outputs.items():
                np.testing.assert_allclose(values, steps[1].outputs[name], atol=1e-6)


def test_own_features_come_back_a_frame_later() -> None:
    c = contract("openpilot-supercombo-2026-06")
    model = c.model("driving_supercombo")
    engine = Recorder(model)
    runner = Runner(c, Network(engine, model.slices))
    planes = np.zeros((1, 6, 128, 256), np.uint8)
    for frame in range(1, 11):
        engine.answer[0, model.slices["hidden_state"]] = frame
        runner.step(image=planes, wide_image=planes, v_ego=9.0)
    # Run 10 knows frames up to 9; its last row is t-4.
    assert engine.seen[-1]["features_buffer"][0, :, 0].tolist() == [0] * 22 + [2, 6]


def test_wrong_use_is_refused() -> None:
    runner, _ = recorder("openpilot-0.10.0")
    with pytest.raises(InputError, match=r"give \(1, 512\)"):
        runner.step(v_ego=1.0)
    with pytest.raises(InputError, match="no vision network"):
        runner.step(v_ego=1.0, image=np.zeros((1, 6, 128, 256), np.uint8))
    with pytest.raises(InputError, match="an index outside"):
        runner.step(v_ego=1.0, features=np.zeros((1, 512)), desire=8)
    c = contract("openpilot-supercombo-2026-09")
    model = c.model("driving_supercombo")
    with pytest.raises(InputError, match="rows=1"):
        Runner(c, Network(Recorder(model), model.slices), rows=2)
