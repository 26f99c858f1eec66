"""The compiled loops against numpy, which they have to repeat to rounding."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.numpy_backend import NUMPY
from steerlab.envs.kinematic_driver.threads import ROWS_PER_THREAD
from steerlab.errors import InputError

pytest.importorskip("numba")

from steerlab.envs.kinematic_driver import scalar_backend


def make(backend: str, n: int, **kwargs: Any) -> KinematicDriverVectorEnv:
    return KinematicDriverVectorEnv(n, backend=backend, **kwargs)


@settings(max_examples=5, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    wild=st.sampled_from([0.2, 1.0, 3.0]),
    shaping=st.sampled_from([0.0, 1.0]),
    mode=st.sampled_from(["NextStep", "SameStep"]),
)
def test_numba_repeats_numpy(seed: int, wild: float, shaping: float, mode: str) -> None:
    """Through several episodes of every row: observations, rewards, ends and all of info."""
    n, ends = 24, 0
    reference, fast = (
        make(b, n, autoreset_mode=mode, reward={"shaping": shaping}, max_episode_steps=60)
        for b in ("numpy", "numba")
    )
    rng = np.random.default_rng(seed)
    found = [env.reset(seed=seed) for env in (reference, fast)]
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-4, atol=0.05)
    for _ in range(100):
        actions = rng.uniform(-wild, wild, (n, 2)).astype(np.float32)
        a, b = reference.step(actions), fast.step(actions)
        for x, y in zip(a[2:4], b[2:4], strict=True):
            np.testing.assert_array_equal(x, y)
        ends += int((a[2] | a[3]).sum())
        # A point within rounding of a knot is seen from that knot or from the one before it,
        # between which the road is an arc for a clothoid: millimetres apart.
        close = np.isclose(a[0], b[0], rtol=1e-4, atol=2e-4)
        assert close.mean() > 0.999
        np.testing.assert_allclose(a[0], b[0], rtol=1e-4, atol=0.05)
        np.testing.assert_allclose(a[1], b[1], atol=1e-4)
        assert a[4].keys() == b[4].keys()
        for name, values in a[4].items():
            if name.startswith(("final", "_final")):
                continue
            np.testing.assert_allclose(values, b[4][name], rtol=1e-4, atol=2e-4, err_msg=name)
        assert all(x.dtype == y.dtype for x, y in zip(a[:4], b[:4], strict=True))
    assert ends > n


def test_threads_change_nothing() -> None:
    n = 3 * ROWS_PER_THREAD
    one, many = (make("numba", n, threads=threads) for threads in (1, 3))
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(one.reset(seed=0)[0], many.reset(seed=0)[0])
    for _ in range(120):
        actions = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
        for x, y in zip(one.step(actions)[:4], many.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(x, y)


def test_infos_are_not_touched_later() -> None:
    """The loops write in place; what was given out must stay as it was."""
    env = make("numba", 6)
    env.reset(seed=0)
    first = env.step(np.zeros((6, 2)))
    kept = {name: values.copy() for name, values in first[4].items()}
    observation = first[0].copy()
    for _ in range(80):
        env.step(np.ones((6, 2)))
    np.testing.assert_array_equal(first[0], observation)
    for name, values in kept.items():
        np.testing.assert_array_equal(first[4][name], values, err_msg=name)


@settings(max_examples=300, deadline=None)
@given(st.floats(-50, 50, width=32))
def test_sine_and_cosine(x: float) -> None:
    assert scalar_backend.sin(np.float32(x)) == pytest.approx(np.sin(x), abs=3e-6)
    assert scalar_backend.cos(np.float32(x)) == pytest.approx(np.cos(x), abs=6e-6)
    if abs(x) < 3:
        assert scalar_backend.sin(np.float32(x)) == pytest.approx(np.sin(x), abs=3e-7)


def test_namespace_is_that_of_numpy() -> None:
    x = np.linspace(-3, 3, 13).astype(np.float32)
    for name in ("abs", "cos", "exp", "floor", "sin"):
        ours = [getattr(scalar_backend, name)(value) for value in x]
        np.testing.assert_allclose(ours, getattr(NUMPY, name)(x), atol=1e-6, rtol=1e-6)
    for low in (-1.0, 0.5):
        for name in ("minimum", "maximum"):
            ours = [getattr(scalar_backend, name)(value, low) for value in x]
            np.testing.assert_array_equal(ours, getattr(NUMPY, name)(x, low))


def test_bad_use_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean"):
        make("numpi", 1)
    with pytest.raises(InputError, match="threads"):
        make("auto", 1, threads=0)
