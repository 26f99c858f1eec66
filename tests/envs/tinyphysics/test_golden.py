"""The simulator on the bundled plant against a plain loop, without anything of comma's."""

from hashlib import md5

import numpy as np
import onnxruntime as ort

from steerlab.agents.classical.comma import controller_factory
from steerlab.envs.tinyphysics.rollout import evaluate
from steerlab.surrogates.plants.load import DEFAULT_PLANT, load_plant
from steerlab.surrogates.segments.data import Segments
from steerlab.surrogates.segments.synthetic import synthetic_segments

BINS = np.linspace(-5, 5, 1024)


def plain_costs(segments: Segments, row: int) -> tuple[float, float, float]:
    """Drive one segment with comma's PID controller, step by step as the challenge describes it."""
    session = ort.InferenceSession(str(DEFAULT_PLANT), providers=["CPUExecutionProvider"])
    target, roll = segments.target[row], segments.roll_lataccel[row]
    v_ego, a_ego, logged = segments.v_ego[row], segments.a_ego[row], segments.steer[row]
    name = f"data/{segments.names[row]}.csv"
    draw = np.random.RandomState(int(md5(name.encode()).hexdigest(), 16) % 10**4)
    steer, driven = list(logged[:20]), list(target[:20])
    integral = before = 0.0
    for t in range(20, 500):
        error = target[t] - driven[-1]
        integral += error
        action = 0.195 * error + 0.1 * integral - 0.053 * (error - before)
        before = error
        steer.append(np.clip(logged[t] if t < 100 else action, -2, 2))
        past = slice(t - 19, t + 1)
        states = np.column_stack([steer[-20:], roll[past], v_ego[past], a_ego[past]])
        tokens = np.digitize(np.clip(driven[-20:], -5, 5), BINS, right=True)
        feeds = {"states": states[None].astype(np.float32), "tokens": tokens[None].astype(np.int64)}
        logits = session.run(None, feeds)[0][0, -1] / 0.8
        powers = np.exp(logits - logits.max())
        drawn = BINS[draw.choice(1024, p=powers / powers.sum())]
        driven.append(np.clip(drawn, driven[-1] - 0.5, driven[-1] + 0.5) if t >= 100 else target[t])
    wanted, found = target[100:500], np.array(driven)[100:500]
    tracking = 100 * float(np.mean((wanted - found) ** 2))
    jerk = 100 * float(np.mean((np.diff(found) / 0.1) ** 2))
    return tracking, jerk, 50 * tracking + jerk


def test_costs_on_the_bundled_plant() -> None:
    segments = synthetic_segments(2, seed=11)
    expected = np.array([plain_costs(segments, row) for row in range(2)])
    found = evaluate(controller_factory("pid"), segments, load_plant("default")).costs
    np.testing.assert_allclose(np.transpose(found), expected, rtol=1e-9)
