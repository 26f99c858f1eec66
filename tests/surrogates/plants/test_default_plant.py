"""The bundled plant: small, usable as comma's, and it behaves like a car."""

import gymnasium as gym
import numpy as np
import onnxruntime as ort
import pytest

from steerlab.agents.classical.pid import PID, Zero
from steerlab.envs.tinyphysics.rollout import evaluate
from steerlab.surrogates.plants.base import TEMPERATURE, Plant, probabilities
from steerlab.surrogates.plants.load import DEFAULT_PLANT, RUNTIMES, load_plant
from steerlab.surrogates.plants.tokens import BINS, encode
from steerlab.surrogates.segments.synthetic import default_segments


def test_file_and_signature() -> None:
    assert DEFAULT_PLANT.stat().st_size < 3e6
    assert DEFAULT_PLANT.with_suffix(".md").is_file()
    session = ort.InferenceSession(str(DEFAULT_PLANT))
    feeds = {
        "states": np.zeros((1, 20, 4), np.float32),
        "tokens": np.full((1, 20), 511, np.int64),
    }
    (logits,) = session.run(None, feeds)
    assert logits.shape == (1, 20, 1024)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_runtime_runs_what_ships(runtime: str) -> None:
    """Its predictions are those of the file, and the task runs with it."""
    rng = np.random.default_rng(0)
    states = rng.normal(0, 0.4, (6, 20, 4)).astype(np.float32)
    states[..., 2] = rng.uniform(0, 35, (6, 1))
    tokens = rng.integers(400, 600, (6, 1)) + rng.integers(-4, 5, (6, 20))
    session = ort.InferenceSession(str(DEFAULT_PLANT))
    (logits,) = session.run(None, {"states": states, "tokens": tokens})
    plant = load_plant("default", runtime, "cpu")
    np.testing.assert_allclose(
        probabilities(plant.logits(states, tokens)), probabilities(logits[:, -1]), atol=1e-5
    )
    env = gym.make("TinyPhysics-v0", runtime=runtime, device="cpu")
    env.reset(seed=0)
    costs = [float(env.step(np.zeros(1, np.float32))[1]) for _ in range(30)]
    assert np.isfinite(costs).all()
    whole = evaluate(PID, default_segments()[:2], "default", runtime, device="cpu")
    known = evaluate(PID, default_segments()[:2], "default", "exact")
    np.testing.assert_allclose(whole.costs.total_cost, known.costs.total_cost, rtol=0.2)


def response(plant: Plant, speed: float, steer: float, steps: int = 40) -> np.ndarray:
    """Return the expected lateral acceleration after a step of the steer."""
    states = np.zeros((1, 20 + steps, 4), np.float32)
    states[..., 2] = speed
    states[:, 20:, 0] = steer
    lataccel = np.zeros((1, 20 + steps))
    for step in range(20, 20 + steps):
        tokens = encode(lataccel[:, step - 20 : step])
        lataccel[:, step] = plant.expect(states[:, step - 19 : step + 1], tokens)
    return lataccel[0, 20:]


def test_it_answers_steer_as_a_car_does() -> None:
    plant = load_plant("default")
    for speed in (15.0, 25.0, 32.0):
        right, left = (response(plant, speed, steer) for steer in (0.4, -0.4))
        assert abs(right[0]) < 0.1  # a dead step
        assert 0.35 < right[-10:].mean() < 1.2
        assert abs(right[-10:].mean() + left[-10:].mean()) < 0.25
    assert response(plant, 4.0, 0.4)[-10:].mean() < response(plant, 25.0, 0.4)[-10:].mean()


def test_noise_is_that_of_a_road() -> None:
    plant = load_plant("default")
    states = np.zeros((1, 20, 4), np.float32)
    states[..., 2] = 25.0
    logits = plant.logits(states, np.full((1, 20), 511))[0] / TEMPERATURE
    chances = np.exp(logits - logits.max())
    chances /= chances.sum()
    deviation = np.sqrt(chances @ (BINS - chances @ BINS) ** 2)
    assert 0.01 < deviation < 0.1


def test_pid_drives_it() -> None:
    segments = default_segments()
    pid, zero = (evaluate(c, segments, "default").costs.total_cost for c in (PID, Zero))
    assert pid.mean() < 0.5 * zero.mean()
