"""Plain ways of running TinyPhysics, with which steerlab's is compared: the official one, and a lean one.

Both are written out here, so that nothing of steerlab's simulator is in them. The official way is that
of comma's script: one process, one thread, a new onnxruntime session for each rollout, a pandas row at
each of its 580 steps. The lean way has one session, numpy arrays, and the 400 calls that count.
"""

import io
import time
from collections.abc import Callable
from hashlib import md5
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort

from steerlab.processes import worker_pool
from steerlab.surrogates.segments.data import Segments


class Result(NamedTuple):
    """What one runner took."""

    rollouts: int
    seconds: float
    total_cost: Any  # (rollouts,)


def peers(segments: Segments, plant: str, processes: int) -> Result:
    """Time the official way in several processes at once; their start is left out."""
    shares = np.array_split(np.arange(len(segments)), processes)
    with worker_pool(processes) as pool:
        started = [pool.submit(peer, segments[s], plant, official_rollout) for s in shares]
        found = [future.result() for future in started]
    rate = sum(result.rollouts / result.seconds for result in found)
    costs = np.concatenate([result.total_cost for result in found])
    return Result(len(segments), len(segments) / rate, costs)


def peer(segments: Segments, plant: str, rollout: Callable[[Any, str, str], float]) -> Result:
    """Time a rollout function over segments, each given as the text of a CSV file."""
    files = [_csv(segments, i) for i in range(len(segments))]
    _session.clear()
    start = time.perf_counter()
    costs = [
        rollout(file, f"data/{name}.csv", plant)
        for file, name in zip(files, segments.names, strict=True)
    ]
    return Result(len(segments), time.perf_counter() - start, np.array(costs))


def _csv(segments: Segments, index: int) -> io.StringIO:
    """Return a segment as a file again; reading it is part of every rollout of a peer."""
    import pandas as pd

    rows = int(segments.rows[index])
    steer = np.full(rows, np.nan)
    steer[:100] = -segments.steer[index]
    frame = pd.DataFrame(
        {
            "t": np.arange(rows) * 0.1,
            "vEgo": segments.v_ego[index, :rows],
            "aEgo": segments.a_ego[index, :rows],
            "roll_lataccel": segments.roll_lataccel[index, :rows],
            "target": segments.target[index, :rows],
            "steerCommand": steer,
        }
    )
    return io.StringIO(frame.to_csv(index=False))


def _new_session(plant: str) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(plant, options, providers=["CPUExecutionProvider"])


_BINS = np.linspace(-5, 5, 1024)


def _sample(session: Any, states: Any, past: Any, generator: Any) -> float:
    """One prediction the official way: softmax over all positions, then numpy's choice."""
    tokens = np.digitize(np.clip(past, -5, 5), _BINS, right=True)
    feeds = {
        "states": np.expand_dims(states, 0).astype(np.float32),
        "tokens": np.expand_dims(tokens, 0).astype(np.int64),
    }
    logits = session.run(None, feeds)[0] / 0.8
    powers = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    chances = powers / np.sum(powers, axis=-1, keepdims=True)
    return _BINS[generator.choice(1024, p=chances[0, -1])]


def _cost(target: Any, driven: Any) -> float:
    target, driven = np.array(target)[100:500], np.array(driven)[100:500]
    tracking = np.mean((target - driven) ** 2) * 100
    return float(tracking * 50 + np.mean((np.diff(driven) / 0.1) ** 2) * 100)


def official_rollout(file: Any, path: str, plant: str) -> float:
    """Drive one route as comma's script does; return its total cost."""
    import pandas as pd

    session = _new_session(plant)
    file.seek(0)
    frame = pd.read_csv(file)
    data = pd.DataFrame(
        {
            "roll_lataccel": frame["roll_lataccel"].values,
            "v_ego": frame["vEgo"].values,
            "a_ego": frame["aEgo"].values,
            "target": frame["target"].values,
            "steer": -frame["steerCommand"].values,
        }
    )
    generator = np.random.RandomState(int(md5(path.encode()).hexdigest(), 16) % 10**4)

    def row(step: int) -> tuple[list[float], float, list[list[float]]]:
        now = data.iloc[step]
        plan = [
            data[name].values[step + 1 : step + 50].tolist()
            for name in ("target", "roll_lataccel", "v_ego", "a_ego")
        ]
        return [now["roll_lataccel"], now["v_ego"], now["a_ego"]], now["target"], plan

    states, targets = [], []
    for step in range(20):
        state, target, _ = row(step)
        states.append(state)
        targets.append(target)
    driven, steers = list(targets), data["steer"].values[:20].tolist()
    total = before = 0.0
    for step in range(20, len(data)):
        state, target, _ = row(step)
        states.append(state)
        targets.append(target)
        error = target - driven[-1]
        total += error
        steer = 0.195 * error + 0.1 * total - 0.053 * (error - before)
        before = error
        if step < 100:
            steer = data["steer"].values[step]
        steers.append(np.clip(steer, -2, 2))
        inputs = np.column_stack([steers[-20:], states[-20:]])
        drawn = _sample(session, inputs, driven[-20:], generator)
        drawn = np.clip(drawn, driven[-1] - 0.5, driven[-1] + 0.5)
        driven.append(drawn if step >= 100 else row(step)[1])
    return _cost(targets, driven)


_session: dict[str, Any] = {}


def lean_rollout(file: Any, path: str, plant: str) -> float:
    """Drive one route with one session, arrays, and only the calls that count."""
    if plant not in _session:
        _session[plant] = _new_session(plant)
    file.seek(0)
    table = np.genfromtxt(file, delimiter=",", skip_header=1)
    _, speed, acceleration, roll, target, command = table.T
    generator = np.random.RandomState(int(md5(path.encode()).hexdigest(), 16) % 10**4)
    generator.random_sample(80)
    driven, steers = target.copy(), np.zeros(500)
    steers[:20], steers[20:100] = -command[:20], np.clip(-command[20:100], -2, 2)
    errors = target[20:100] - target[19:99]
    total, before = 0.0, 0.0
    for error in errors:
        total += error
        before = error
    for step in range(100, 500):
        error = target[step] - driven[step - 1]
        total += error
        steer = 0.195 * error + 0.1 * total - 0.053 * (error - before)
        before = error
        steers[step] = np.clip(steer, -2, 2)
        window = slice(step - 19, step + 1)
        inputs = np.stack([steers[window], roll[window], speed[window], acceleration[window]], 1)
        drawn = _sample(_session[plant], inputs, driven[step - 20 : step], generator)
        driven[step] = np.clip(drawn, driven[step - 1] - 0.5, driven[step - 1] + 0.5)
    return _cost(target, driven)
