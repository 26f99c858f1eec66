"""The runner against a plain one, written down here car by car and frame by frame."""

import math
from typing import Any

import numpy as np
import pytest

from steerlab.openpilot.contracts import Model, contract
from steerlab.openpilot.runner import Network, Runner

ROWS, FRAMES = 3, 130


class Echo:
    """An engine whose outputs are a fixed random function of its inputs, row by row."""

    def __init__(self, model: Model, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.model, self.length = model, model.length
        self.weights = {n: rng.normal(size=97) for n in model.inputs}
        self.seen: list[dict[str, Any]] = []

    def run(self, inputs: Any) -> dict[str, Any]:
        self.seen.append({n: np.array(a) for n, a in inputs.items()})
        rows = len(next(iter(inputs.values())))
        phase = np.zeros(rows)
        for name, values in inputs.items():
            flat = values.reshape(rows, -1).astype(float) / (
                255.0 if values.dtype == np.uint8 else 1
            )
            some = flat[:, :: max(1, flat.shape[1] // 97)][:, :97]
            phase += some @ self.weights[name][: some.shape[1]]
        wave = np.sin(phase[:, None] + np.arange(self.length) * 0.01)
        return {"outputs": (0.1 * wave).astype(np.float32)}


def drives(seed: int) -> dict[str, Any]:
    """Return what ROWS cars see in FRAMES frames."""
    rng = np.random.default_rng(seed)
    desire = np.repeat(rng.integers(0, 8, (FRAMES // 5, ROWS)), 5, axis=0)
    return {
        "v_ego": rng.uniform(-0.5, 30, (FRAMES, ROWS)).astype(np.float32) * (rng.random((FRAMES, ROWS)) > 0.1),
        "features": rng.normal(size=(FRAMES, ROWS, 512)).astype(np.float32),
        "desire": desire,
        "traffic": rng.integers(0, 2, (FRAMES, ROWS)),
        "lateral_delay": rng.uniform(0.1, 0.5, (FRAMES, ROWS)).astype(np.float32),
        "longitudinal_delay": rng.uniform(0.1, 0.3, (FRAMES, ROWS)),
        "dropped": rng.random(FRAMES) < 0.1,
        "reset": rng.random((FRAMES, ROWS)) < 0.02,
    }  # fmt: skip


#: What the releases do, from the published code of their modeld: seconds, m/s.
RULES: dict[str, dict[str, Any]] = {
    "openpilot-0.10.0": {"lat": 0.1, "extra": 0.05, "dropped": "keeps the pulse", "names": ("desire", True)},
    "sunnypilot-2025-08": {"lat": 0.1, "extra": 0.05, "dropped": "keeps the pulse", "names": ("desire", False)},
    "openpilot-0.10.1": {"lat": 0.1, "extra": 0.05, "dropped": "loses the pulse", "names": ("desire_pulse", False)},
    "openpilot-0.11.0": {"lat": 0.0, "extra": 0.05, "dropped": "loses the pulse", "names": ("desire_pulse", False)},
}  # fmt: skip


class PlainCar:
    """modeld for one car, in the plainest way: lists, and no queue that is shared with anyone."""

    def __init__(self, id: str, engine: Echo) -> None:
        self.id, self.rule, self.engine = id, RULES[id], engine
        self.clear()

    def clear(self) -> None:
        self.features = [np.zeros(512, np.float32)] * 100
        self.desires = [np.zeros(8, np.float32)] * 100
        self.previous = np.zeros(8)
        self.curvature = self.acceleration = 0.0

    def frame(self, now: dict[str, Any]) -> tuple[float, float, bool] | None:
        desire = np.zeros(8)
        desire[now["desire"]] = 1.0
        desire[0] = 0.0
        pulse = np.array([float(d - p > 0.99) for d, p in zip(desire, self.previous, strict=True)])
        self.previous = desire
        if now["dropped"]:
            if self.rule["dropped"] == "keeps the pulse":
                self.desires = [*self.desires[1:], pulse]
            return None
        self.desires = [*self.desires[1:], pulse]
        self.features = [*self.features[1:], now["features"]]
        v = float(now["v_ego"])
        name, old = self.rule["names"]
        history = np.array([np.max(self.desires[4 * k : 4 * k + 4], axis=0) for k in range(25)])
        inputs = {
            name: history[None].astype(np.float32),
            "traffic_convention": np.eye(2, dtype=np.float32)[[now["traffic"]]],
            "features_buffer": np.array([self.features[4 * k + 3] for k in range(25)])[None],
        }
        if old:
            delay = np.float32(now["lateral_delay"]) + np.float32(self.rule["lat"])
            inputs["lateral_control_params"] = np.array([[max(v, 0.0), delay]], np.float32)
            inputs["prev_desired_curv"] = np.zeros((1, 25, 1), np.float32)
        flat = self.engine.run({n: inputs[n] for n in self.engine.model.inputs})["outputs"][0]
        return self.command(self.plan(flat.astype(float)), v, now)

    def plan(self, flat: Any) -> Any:
        start = self.engine.model.slices["plan"].start
        if self.id != "openpilot-0.10.0":
            return flat[start : start + 495].reshape(33, 15)
        rows = flat[start : start + 4955].reshape(5, 991)
        return rows[int(np.argmax(rows[:, 990]))][:495].reshape(33, 15)

    def command(self, plan: Any, v: float, now: dict[str, Any]) -> tuple[float, float, bool]:
        times = [10.0 * (i / 32) ** 2 for i in range(33)]
        t_lat = float(now["lateral_delay"]) + self.rule["lat"] + self.rule["extra"]
        t_long = float(now["longitudinal_delay"]) + 0.3 + self.rule["extra"]
        speed, yaw = plan[:, 3], plan[:, 11]
        held = max(v, 1.0)
        curvature = 2 * np.interp(t_lat, times, yaw) / (held * t_lat) - plan[0, 14] / held
        acceleration = 2 * (np.interp(t_long, times, speed) - speed[0]) / t_long - plan[0, 6]
        stops = (
            np.interp(t_long, times, speed) < 0.05 and np.interp(t_long + 1, times, speed) < 0.05
        )
        share = 1 - math.exp(-0.05 / self.rule["lat"]) if self.rule["lat"] else 1.0
        if v > 0.3:
            self.curvature = share * curvature + (1 - share) * self.curvature
        share = 1 - math.exp(-0.05 / 0.3)
        self.acceleration = share * acceleration + (1 - share) * self.acceleration
        return self.curvature, self.acceleration, bool(stops)


@pytest.mark.parametrize("id", RULES)
def test_a_batch_is_so_many_plain_cars(id: str) -> None:
    model = contract(id).model("driving_policy")
    engine, seen = Echo(model, 1), drives(2)
    runner = Runner(id, Network(engine, model.slices), rows=ROWS)
    cars = [PlainCar(id, Echo(model, 1)) for _ in range(ROWS)]
    steps = 0
    for t in range(FRAMES):
        for row in np.flatnonzero(seen["reset"][t]):
            cars[row].clear()
        runner.reset(seen["reset"][t])
        now = {n: values[t] for n, values in seen.items() if n != "reset"}
        step = runner.step(**now)
        wanted = [
            car.frame({n: v if n == "dropped" else v[k] for n, v in now.items()})
            for k, car in enumerate(cars)
        ]
        if step is None:
            assert wanted == [None] * ROWS
            continue
        steps += 1
        for name in model.inputs:
            expected = np.concatenate([car.engine.seen[-1][name] for car in cars])
            np.testing.assert_array_equal(engine.seen[-1][name], expected, err_msg=f"{name} at {t}")
        curvature, acceleration, stops = map(list, zip(*wanted, strict=True))
        np.testing.assert_allclose(step.command.curvature, curvature, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(step.command.acceleration, acceleration, rtol=1e-5, atol=1e-7)
        assert step.command.should_stop.tolist() == stops
    assert 100 < steps < FRAMES


def test_one_car_is_a_batch_of_one() -> None:
    """Rows do not see one another: N cars at once are N runners of one car."""
    id = "openpilot-0.10.0"
    model = contract(id).model("driving_policy")
    seen = drives(3)
    batch = Runner(id, Network(Echo(model, 4), model.slices), rows=ROWS)
    single = [Runner(id, Network(Echo(model, 4), model.slices)) for _ in range(ROWS)]
    for t in range(40):
        now = {n: v[t] for n, v in seen.items() if n not in ("reset", "dropped")}
        step = batch.step(**now)
        assert step is not None
        for k, runner in enumerate(single):
            alone = runner.step(**{n: v[k : k + 1] for n, v in now.items()})
            assert alone is not None
            for a, b in zip(alone.command, step.command, strict=True):
                np.testing.assert_allclose(a[0], b[k], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("id", "expected"),
    [
        ("openpilot-0.10.0", [None, 23]),  # the pulse came with the lost frame, one frame ago
        ("openpilot-0.10.1", [None, None]),  # lost with it
        ("openpilot-supercombo-2026-06", [None, None]),
        ("openpilot-supercombo-2026-07", [24, 24]),  # nothing is skipped
    ],
)
def test_a_desire_that_rises_on_a_lost_frame(id: str, expected: list[int | None]) -> None:
    release = contract(id)
    model = release.model(release.policy_name)
    engine = Echo(model, 0)
    runner = Runner(id, Network(engine, model.slices))
    rows: list[int | None] = []
    planes = np.zeros((1, 6, 128, 256), np.uint8)
    seen: dict[str, Any] = {"features": np.zeros((1, 512), np.float32)}
    if not release.is_split:
        seen = {"image": planes, "wide_image": planes}
    for frame in range(5):  # the fifth frame is in the next bin of four
        before = len(engine.seen)
        runner.step(v_ego=10.0, desire=3, dropped=frame == 0, **seen)
        if frame in (0, 4):
            name = "desire" if "desire" in model.inputs else "desire_pulse"
            last = engine.seen[-1][name][0, :, 3] if len(engine.seen) > before else np.zeros(25)
            rows.append(int(np.flatnonzero(last)[0]) if last.any() else None)
    wanted = [expected[0], None if expected[1] is None else 23]
    assert rows == wanted


def action_step(id: str, v_ego: float, acceleration: float, width: int) -> Any:
    """Return a step of a supercombo with an ``action`` head, whose plan goes at 20 m/s."""
    release = contract(id)
    model = release.model("driving_supercombo", heads={"action": width, "hidden_state": 512})
    flat = np.zeros((1, model.length), np.float32)
    plan = flat[0, model.slices["plan"]][:495].reshape(33, 15)
    plan[:, 3] = 20.0
    flat[0, model.slices["action"]][:2] = [0.5, acceleration]

    class Fixed:
        def run(self, inputs: Any) -> dict[str, Any]:
            return {"outputs": flat, **{f"next_{n}": inputs[n] for n in model.states}}

    runner = Runner(id, Network(Fixed(), model.slices))
    planes = np.zeros((1, 6, 128, 256), np.uint8)
    return runner.step(v_ego=v_ego, image=planes, wide_image=planes)


@pytest.mark.parametrize(
    ("id", "width"),
    [
        ("openpilot-supercombo-2026-06", 2),
        ("openpilot-supercombo-2026-07", 4),
        ("openpilot-supercombo-2026-09", 4),
        ("openpilot-supercombo-2026-09", 2),
    ],
)
@pytest.mark.parametrize(
    ("v_ego", "acceleration", "stops"),
    [(0.2, 0.05, True), (0.2, 0.15, False), (0.35, -1.0, False), (0.29, 0.0999, True)],
)
def test_with_an_action_head_the_cars_speed_decides_on_stopping(
    id: str, width: int, v_ego: float, acceleration: float, stops: bool
) -> None:
    step = action_step(id, v_ego, acceleration, width)
    assert step.desired.should_stop.tolist() == [stops]
    np.testing.assert_allclose(step.desired.curvature, 0.5)  # v below 1 m/s counts as 1
    np.testing.assert_allclose(step.desired.acceleration, acceleration, rtol=1e-6)
