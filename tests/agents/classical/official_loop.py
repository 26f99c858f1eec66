"""comma's rollout written out plainly: one process, one controller file, routes in order.

    python official_loop.py CHECKOUT CONTROLLER FOLDER PLANT

Prints the total cost of each route as JSON. PLANT is an ONNX file, or "analytic". Semantics:
commaai/controls_challenge at be8edfa. It imports nothing
of steerlab.
"""

import csv
import importlib
import json
import sys
from collections import namedtuple
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np

State = namedtuple("State", "roll_lataccel v_ego a_ego")
Plan = namedtuple("Plan", "lataccel roll_lataccel v_ego a_ego")
BINS = np.linspace(-5, 5, 1024)


def column(rows: Any, name: str) -> Any:
    return np.array([float(row[name] or "nan") for row in rows])


def analytic(states: Any, tokens: Any) -> Any:
    """The analytic plant of steerlab: one dead step, a lag, a gain that falls with low speed."""
    steer, roll, speed = (states[0, :, i].astype(np.float64) for i in range(3))
    speed = np.maximum(speed, 0.0)
    wanted = 2.05 * speed / (speed + 4.0) * steer + 0.3 * roll
    weights = (0.05, 0.07, 0.12, 0.22, 0.35, 0.19, 0.0)
    now = before = 0
    for k, weight in enumerate(weights):
        now = now + weight * wanted[13 + k]
        before = before + weight * wanted[12 + k]
    mean = now + 0.9 * (BINS[tokens[0, -1]] - before)
    return (-0.5 * 0.8 * ((BINS - mean) / 0.035) ** 2).astype(np.float32)


def onnx(path: str) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda states, tokens: session.run(None, {"states": states, "tokens": tokens})[0][0, -1]


def rollout(path: Path, make: Any, logits: Any) -> float:
    with open(path) as file:
        rows = list(csv.DictReader(file))
    road = [
        np.sin(column(rows, "roll")) * 9.81, column(rows, "vEgo"), column(rows, "aEgo"),
    ]  # fmt: skip
    target, logged = column(rows, "targetLateralAcceleration"), -column(rows, "steerCommand")
    controller = make()
    np.random.seed(int(md5(f"data/{path.name}".encode()).hexdigest(), 16) % 10**4)  # noqa: NPY002
    steer, driven = logged[:20].tolist(), target[:20].tolist()
    for t in range(20, len(rows)):
        state = State(*(values[t] for values in road))
        plan = Plan(*(values[t + 1 : t + 50].tolist() for values in (target, *road)))
        action = controller.update(target[t], driven[-1], state, future_plan=plan)
        if t < 100:
            action = logged[t]
        steer.append(np.clip(action, -2, 2))
        window = slice(t - 19, t + 1)
        states = np.column_stack([steer[-20:], *(values[window] for values in road)])
        tokens = np.digitize(np.clip(driven[-20:], -5, 5), BINS, right=True)
        scaled = logits(states[None].astype(np.float32), tokens[None].astype(np.int64)) / 0.8
        powers = np.exp(scaled - scaled.max())
        drawn = BINS[np.random.choice(1024, p=powers / powers.sum())]  # noqa: NPY002
        drawn = np.clip(drawn, driven[-1] - 0.5, driven[-1] + 0.5)
        driven.append(drawn if t >= 100 else target[t])
    wanted, found = target[100:500], np.array(driven)[100:500]
    tracking = np.mean((wanted - found) ** 2) * 100
    return float(tracking * 50 + np.mean((np.diff(found) / 0.1) ** 2) * 100)


def main(checkout: str, name: str, folder: str, plant: str) -> None:
    sys.path.insert(0, checkout)
    make = importlib.import_module(f"controllers.{name}").Controller
    logits = analytic if plant == "analytic" else onnx(plant)
    costs = [rollout(path, make, logits) for path in sorted(Path(folder).glob("*.csv"))]
    print(json.dumps(costs))


if __name__ == "__main__":
    main(*sys.argv[1:])
