"""Statistics of single frames under a policy that sees stacks of them, in the order of rl-zoo."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from steerlab.errors import InputError
from steerlab.exporters.onnx import session
from steerlab.exporters.sb3 import export_sb3

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
SEEN = spaces.Box(-5.0, 5.0, (6,), np.float32)
TWO = spaces.Dict(
    {"a": spaces.Box(-5, 5, (2,), np.float32), "b": spaces.Box(-1, 1, (3,), np.float32)}
)


class Drift(gym.Env[Any, Any]):
    def __init__(self, observations: spaces.Space[Any]) -> None:
        self.action_space, self.observation_space = BOX, observations

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, False, {}


def normalized(observations: spaces.Space[Any]) -> VecNormalize:
    """Return statistics in which every value has a mean and a scale of its own."""
    observations.seed(1)
    venv = VecNormalize(DummyVecEnv([lambda: Drift(observations)]), norm_reward=False, clip_obs=2.0)
    rng = np.random.default_rng(0)
    found = venv.obs_rms if isinstance(venv.obs_rms, dict) else {"": venv.obs_rms}
    for values in found.values():
        values.mean = rng.normal(size=values.mean.shape)
        values.var = rng.uniform(0.5, 4.0, values.var.shape)
    venv.training = False
    return venv


def frames(observations: spaces.Space[Any], count: int) -> list[Any]:
    return [observations.sample() for _ in range(count)]


def joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], dict):
        return {name: np.concatenate([p[name] for p in parts])[None] for name in parts[0]}
    return np.concatenate(parts)[None]


def case(seen: Any, stack: int, monitor: bool) -> Any:
    """A fast test covers every pair of values; the other four of the eight cases are slow ones."""
    fast = monitor == ((seen is TWO) != (stack == 1))
    return pytest.param(seen, stack, monitor, marks=() if fast else pytest.mark.slow)


@pytest.mark.parametrize(
    ("seen", "stack", "monitor"),
    [
        case(seen, stack, monitor)
        for seen in (SEEN, TWO)
        for stack in (1, 3)
        for monitor in (False, True)
    ],
)
def test_a_stack_over_normalised_frames(
    seen: Any, stack: int, monitor: bool, tmp_path: Path
) -> None:
    venv = normalized(seen)
    policy = "MultiInputPolicy" if seen is TWO else "MlpPolicy"
    stacked: Any = VecFrameStack(venv, stack)
    around = VecMonitor(stacked) if monitor else stacked
    model = PPO(policy, around, n_steps=8, batch_size=8, device="cpu")
    actor = export_sb3(model, tmp_path / "p.onnx")
    run = session(tmp_path / "p.onnx")
    for _ in range(5):
        some = frames(seen, stack)
        wanted, _ = model.predict(joined([venv.normalize_obs(f) for f in some]), deterministic=True)
        raw = joined(some)
        feeds = raw if isinstance(raw, dict) else {"observation": raw}
        assert set(feeds) == set(actor.input_names)
        (found,) = run.run(None, feeds)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_same_from_a_normaliser_beside_the_model(tmp_path: Path) -> None:
    venv = normalized(SEEN)
    PPO("MlpPolicy", VecFrameStack(venv, 3), n_steps=8, batch_size=8, device="cpu").save(
        tmp_path / "m.zip"
    )
    model = PPO.load(tmp_path / "m.zip", device="cpu")
    export_sb3(model, tmp_path / "p.onnx", normalizer=venv)
    some = frames(SEEN, 3)
    wanted, _ = model.predict(joined([venv.normalize_obs(f) for f in some]), deterministic=True)
    (found,) = session(tmp_path / "p.onnx").run(None, {"observation": joined(some)})
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_normalising_the_stack_itself_is_as_it_was(tmp_path: Path) -> None:
    venv = VecNormalize(VecFrameStack(DummyVecEnv([lambda: Drift(SEEN)]), 2), norm_reward=False)
    statistics: Any = venv.obs_rms
    statistics.mean = np.linspace(-1, 1, 12)
    venv.training = False
    model = PPO("MlpPolicy", venv, n_steps=8, batch_size=8, device="cpu")
    export_sb3(model, tmp_path / "p.onnx")
    raw = joined(frames(SEEN, 2))
    wanted, _ = model.predict(venv.normalize_obs(raw), deterministic=True)
    (found,) = session(tmp_path / "p.onnx").run(None, {"observation": raw})
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_an_order_that_cannot_be_repeated_is_named(tmp_path: Path) -> None:
    venv = VecExtractDictObs(normalized(TWO), "a")
    model = PPO("MlpPolicy", venv, n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(InputError, match=r"VecNormalize.*outermost"):
        export_sb3(model, tmp_path / "p.onnx")
    other = normalized(spaces.Box(-5.0, 5.0, (4,), np.float32))
    model = PPO(
        "MlpPolicy", DummyVecEnv([lambda: Drift(SEEN)]), n_steps=8, batch_size=8, device="cpu"
    )
    with pytest.raises(InputError, match=r"\(4,\).*\(6,\).*outermost"):
        export_sb3(model, tmp_path / "p.onnx", normalizer=other)
    assert not list(tmp_path.iterdir())
