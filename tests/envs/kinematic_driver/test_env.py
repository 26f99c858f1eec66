"""The task as a whole: what is seen, what is done, how episodes end and repeat."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from steerlab.envs.kinematic_driver.dynamics import DT
from steerlab.envs.kinematic_driver.env import KinematicDriverEnv, KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.observation import LAYOUT, X_IDXS
from steerlab.envs.kinematic_driver.simulator import noise_table
from steerlab.envs.kinematic_driver.violations import BOUNDARY, CUT, STALL, STALL_STEPS, WRONG_WAY
from steerlab.errors import InputError

EXACT = {"vision_latency": 0.0, "dropout": 0.0, "geometry_noise": 0.0}


def make(n: int = 4, **kwargs: Any) -> KinematicDriverVectorEnv:
    return KinematicDriverVectorEnv(n, **{"autoreset_mode": "Disabled", **kwargs})


def seen(env: KinematicDriverVectorEnv, row: int) -> dict[str, np.ndarray[Any, Any]]:
    return LAYOUT.split(env._observe(slice(None))[row].astype(float))


def true_lines(env: KinematicDriverVectorEnv, row: int) -> np.ndarray[Any, Any]:
    """Return offset and heading of the path at X_IDXS, (33, 2), from its curvature alone."""
    sim = env.simulator
    knots = sim.plan.reshape(-1, sim.knots, 4)[row].astype(float)
    spacing = float(sim.episode["spacing"][row])
    s0, d, psi = (float(part[row]) for part in (sim.state.s, sim.state.d, sim.state.psi))
    s = np.linspace(0, 192, 19201)
    kappa = np.interp(s0 + s, spacing * np.arange(sim.knots), knots[:, 0])
    heading = -psi + np.concatenate([[0], np.cumsum(0.5 * (kappa[1:] + kappa[:-1]) * 0.01)])
    rise = np.sin(heading)
    offset = -d * np.cos(psi) + np.concatenate(
        [[0], np.cumsum(0.5 * (rise[1:] + rise[:-1]) * 0.01)]
    )
    return np.stack([np.interp(X_IDXS, s, offset), np.interp(X_IDXS, s, heading)], 1)


def test_the_lines_seen_are_the_lines_there() -> None:
    env = make(40, noise=False)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(12):
        env.step(rng.uniform(-0.3, 0.3, (40, 2)))
        env._done[:] = False
    for row in range(40):
        view, true = seen(env, row), true_lines(env, row)
        np.testing.assert_allclose(view["path_offset"], true[:, 0], atol=0.06)
        np.testing.assert_allclose(view["path_heading"], true[:, 1], atol=0.012)
        place, psi = env.simulator.place, float(env.simulator.state.psi[row])
        left = view["left_offset"][0] - view["path_offset"][0]
        right = view["right_offset"][0] - view["path_offset"][0]
        assert left == pytest.approx(-float(place.left[row]) * np.cos(psi), abs=1e-4)
        assert right == pytest.approx(float(place.right[row]) * np.cos(psi), abs=1e-4)
        ahead = np.abs(view["path_heading"]) < 1.4
        assert (view["left_offset"] < view["path_offset"])[ahead].all()
        assert (view["right_offset"] > view["path_offset"])[ahead].all()


def test_sensors_desire_and_convention() -> None:
    env = make(2, noise=False)
    options = {"kind": "intersection", "desire": ["turnLeft", "turnRight"], "cruise_speed": 6.0}
    options |= {"left_hand_traffic": [0, 1], "lateral_delay": 0.3, "smoothing": 0.1}
    env.reset(seed=1, options=options)
    action = np.array([[0.1, 0.4], [-0.2, 0.3]], np.float32)
    wanted = set()
    for _ in range(150):
        *_, info = env.step(action * 0)
        env._done[:] = False
        wanted.add(int(seen(env, 0)["desire"].argmax()))
    *_, info = env.step(action)
    for row in range(2):
        view = seen(env, row)
        for name in ("speed", "acceleration", "curvature", "cruise_speed"):
            assert view[name][0] == pytest.approx(info[name][row], abs=1e-6)
        np.testing.assert_allclose(view["previous_action"], action[row])
        assert view["lat_delay"][0] == pytest.approx(0.4)
        np.testing.assert_array_equal(view["traffic_convention"], np.eye(2)[row])
        assert view["desire"].sum() == 1
    assert wanted == {0, 1}


@pytest.mark.parametrize("delay", [0.1, 0.125, 0.32, 0.5])
def test_pure_delay(delay: float) -> None:
    """A step of the command reaches the wheels after the delay, and not before."""
    env = make(1, noise=False)
    env.reset(seed=3, options={"lateral_delay": delay, "smoothing": 0.0, "actuator_lag": 0.01})
    before = float(env.simulator.state.k_actuator[0])
    moved = []
    for _ in range(14):
        env.step(np.array([[0.8, 0.0]]))
        moved.append(abs(float(env.simulator.state.k_actuator[0]) - before) > 1e-9)
    # The step in which the command arrives is number floor(delay / DT), from 0.
    assert moved.index(True) == int(delay / DT + 1e-9)


def test_vision_latency_shows_the_past() -> None:
    now, late = make(1, noise=False), make(1, noise=False)
    for env, latency in ((now, 0.0), (late, 0.15)):
        env.reset(seed=5, options={"vision_latency": latency})
    views = []
    for _ in range(10):
        for env in (now, late):
            env.step(np.array([[0.3, 0.1]]))
        views.append(seen(now, 0)["path_offset"])
    np.testing.assert_allclose(seen(late, 0)["path_offset"], views[-4], atol=1e-5)


def test_dropouts_freeze_frames_as_often_as_asked() -> None:
    env = make(200)
    env.reset(seed=0, options={"dropout": 0.05})
    frozen, lengths = [], np.zeros(200, int)
    bursts = []
    last = env._observe(slice(None))[:, LAYOUT["path_offset"]]
    for _ in range(400):
        env.step(np.zeros((200, 2)))
        env._done[:] = False
        view = env._observe(slice(None))[:, LAYOUT["path_offset"]]
        same = (view == last).all(1)
        bursts += lengths[(lengths > 0) & ~same].tolist()
        lengths = np.where(same, lengths + 1, 0)
        frozen.append(same.mean())
        last = view
    assert np.mean(frozen) == pytest.approx(0.05, abs=0.01)
    assert max(bursts) >= 5
    assert np.mean(np.array(bursts) <= 5) > 0.95  # two bursts may follow on each other


def test_line_errors_grow_as_specified() -> None:
    exact, noisy = make(1, noise=False), make(1)
    pins = {"vision_latency": 0.0, "dropout": 0.0, "geometry_noise": 1.0, "brightness": 1.0}
    errors = []
    for seed in range(300):
        for env in (exact, noisy):
            env.reset(seed=seed, options=pins if env is noisy else {})
        errors.append(seen(noisy, 0)["left_offset"] - seen(exact, 0)["left_offset"])
    spread = np.std(errors, axis=0)
    assert spread[0] == pytest.approx(0.02, rel=0.15)
    assert np.interp(100.0, X_IDXS, spread) == pytest.approx(0.5, rel=0.15)


def test_noise_pool_is_what_it_says() -> None:
    table = noise_table()
    normal, uniform = table[:, :12], table[:, 12:]
    np.testing.assert_allclose(normal.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(normal.std(0), 1, atol=0.02)
    assert (uniform >= 0).all()
    assert (uniform < 1).all()
    np.testing.assert_allclose(uniform.mean(0), 0.5, atol=0.01)


@pytest.mark.parametrize("count", [3, 40])
def test_rows_depend_on_their_own_seed_only(count: int) -> None:
    """Many rows make episodes ahead, in blocks; each still repeats the car on its own."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (250, count, 2)).astype(np.float32)
    many = KinematicDriverVectorEnv(count, autoreset_mode="NextStep")
    first, _ = many.reset(seed=100)
    record = [first]
    rewards, ends = [], 0
    for action in actions:
        o, r, te, tr, _ = many.step(action)
        record.append(o)
        rewards.append(r)
        ends += int((te | tr).sum())
    assert ends > 2 * count
    for row in (0, 1, count - 1):
        one = KinematicDriverVectorEnv(1, autoreset_mode="NextStep")
        o, _ = one.reset(seed=100 + row)
        np.testing.assert_array_equal(o[0], record[0][row])
        for t, action in enumerate(actions):
            o, r, *_ = one.step(action[row : row + 1])
            np.testing.assert_allclose(o[0], record[t + 1][row], rtol=1e-5, atol=1e-5)
            assert r[0] == pytest.approx(rewards[t][row], abs=1e-6)


def test_pinned_reset_takes_the_same_place_in_a_row_of_episodes() -> None:
    """Whether an episode was made ahead or not, a pinned one uses the numbers that were next."""
    few, many = make(2), make(40)
    for env in (few, many):
        env.reset(seed=9)
        env.reset()
        _, info = env.reset(options={"friction": 0.7})
        env.mass = info["mass"]
        assert (info["friction"] == np.float32(0.7)).all()
    np.testing.assert_array_equal(few.mass, many.mass[:2])  # type: ignore[attr-defined]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    actions=hnp.arrays(
        np.float32, (30, 2), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)
    ),
)
def test_no_action_makes_nan(seed: int, actions: Any) -> None:
    env = KinematicDriverVectorEnv(3, autoreset_mode="SameStep")
    env.reset(seed=seed)
    for action in actions:
        o, r, *_, info = env.step(np.broadcast_to(action, (3, 2)))
        assert np.isfinite(o).all()
        assert np.isfinite(r).all()
        assert all(np.isfinite(info[k]).all() for k in ("s", "cte", "speed", "jerk_rms"))


def drive(env: KinematicDriverVectorEnv, act: Any, steps: int) -> np.ndarray[Any, Any]:
    """Return the violation with which each row's first episode ends, 0 if it does not."""
    found = np.zeros(env.num_envs, int)
    over = np.zeros(env.num_envs, bool)
    for t in range(steps):
        *_, te, tr, info = env.step(act(t))
        env._done[:] = False
        new = te & ~over
        found[new] = info["violation"][new]
        over |= te | tr
    return found


def test_zero_and_random_actions_fail() -> None:
    rng = np.random.default_rng(0)
    for act in (lambda t: np.zeros((100, 2)), lambda t: rng.uniform(-1, 1, (100, 2))):
        env = make(100)
        env.reset(seed=0)
        assert (drive(env, act, 499) > 0).mean() > 0.9


def test_each_violation_has_its_name() -> None:
    env = make(2)
    quiet = {"start_offset": 0.0, "start_heading": 0.0}
    env.reset(seed=0, options=quiet | {"kind": "lane", "cruise_speed": 20.0})
    assert (drive(env, lambda t: np.array([[1.0, 0], [-1.0, 0]]), 60) == BOUNDARY).all()
    env.reset(seed=0, options=quiet)
    assert (drive(env, lambda t: np.tile([0.0, -1.0], (2, 1)), 499) != 0).all()
    straight = make(1)
    pins = quiet | {"kind": "intersection", "desire": "none", "cruise_speed": 4.0}
    straight.reset(seed=2, options=pins | {"superelevation": 0.0})
    steps = 0
    terminated = np.zeros(1, bool)
    while not terminated[0]:
        _, _, terminated, _, info = straight.step(np.array([[0.0, -1.0]]))
        steps += 1
    assert info["violation"][0] == STALL
    assert steps > STALL_STEPS
    # On a road without lanes the other half is there, but it is not ours.
    wide = make(2)
    pins = quiet | {"kind": "laneless", "cruise_speed": 10.0, "left_hand_traffic": [0, 1]}
    wide.reset(seed=3, options=pins | {"friction": 1.0, "lane_width": 3.9})
    assert (drive(wide, lambda t: np.array([[-0.4, 0], [0.4, 0]]), 60) == WRONG_WAY).all()
    # Turning in too early cuts the corner.
    turn = make(2)
    pins = quiet | {"kind": "intersection", "desire": ["turnLeft", "turnRight"]}
    pins |= {"cruise_speed": 8.0, "lateral_delay": 0.1, "friction": 1.0}
    turn.reset(seed=4, options=pins)
    near = turn.simulator.episode["desire_from"]
    assert (
        drive(
            turn,
            lambda t: np.array([[-0.5, 0], [0.5, 0]]) * (turn.simulator.state.s > near)[:, None],
            300,
        )
        == CUT
    ).all()


def test_episode_summary_is_that_of_the_steps() -> None:
    env = make(6, max_episode_steps=60)
    env.reset(seed=0)
    offsets, alive = [], np.ones(6, bool)
    for _ in range(60):
        *_, te, tr, info = env.step(np.full((6, 2), 0.02))
        offsets.append(np.where(alive, np.abs(info["cte"]), np.nan))
        for row in np.flatnonzero(alive & (te | tr)):
            steps = np.array(offsets)[:, row]
            steps = steps[~np.isnan(steps)]
            assert info["cte_p50"][row] == pytest.approx(np.percentile(steps, 50), rel=1e-4)
            assert info["cte_p95"][row] == pytest.approx(np.percentile(steps, 95), rel=1e-4)
            assert info["cte_max"][row] == pytest.approx(steps.max(), rel=1e-5)
        assert (info["cte_p95"][alive & ~(te | tr)] == -1).all()
        alive &= ~(te | tr)
        env._done[:] = False
    assert not alive.any()
    assert tr.any()


def test_reward_is_the_share_of_the_way() -> None:
    """Straight on at the set speed returns 100, apart from the start."""
    env = make(1, noise=False, reward={"shaping": 0.0}, max_episode_steps=200)
    pins = {"kind": "intersection", "desire": "none", "cruise_speed": 12.0, "start_speed": 1.0}
    pins |= {"start_offset": 0.0, "start_heading": 0.0}
    env.reset(seed=2, options=pins)
    total = 0.0
    for _ in range(10):
        _, r, *_ = env.step(np.zeros((1, 2)))
        total += r[0]
    assert total == pytest.approx(100 * 10 / 200, rel=1e-3)


def test_shaping_telescopes_with_the_discount() -> None:
    shaped, plain = make(1), make(1, reward={"shaping": 0.0})
    for env in (shaped, plain):
        env.reset(seed=8)
    start = float(shaped.simulator.potential[0])
    extra, weight = 0.0, 1.0
    for _ in range(200):
        a, b = (env.step(np.array([[0.3, 0.1]])) for env in (shaped, plain))
        extra += weight * (a[1][0] - b[1][0])
        assert a[4]["base_reward"][0] == pytest.approx(b[1][0], abs=1e-6)
        weight *= 0.99
        if a[2][0]:
            break
    assert a[2][0]  # it ended in a violation, so the potential ended at 0
    assert extra == pytest.approx(-start, abs=1e-4)


def test_pictures() -> None:
    env = gym.make("KinematicDriver-v0", render_mode="rgb_array")
    env.reset(seed=0)
    picture: Any = env.render()
    assert picture.dtype == np.uint8
    assert picture.shape == (360, 940, 3)
    for _ in range(20):
        env.step(np.array([0.0, 0.2], np.float32))
    assert (np.asarray(env.render()) != picture).mean() > 0.01
    single = KinematicDriverEnv(render_mode="rgb_array", view="bird")
    single.reset(seed=0)
    frame: Any = single.render()
    assert frame.shape == (360, 300, 3)


def test_human_mode_shows_the_car() -> None:
    """Without a display there is no window, but the same figure: what it shows is what is drawn."""
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    env: Any = gym.make("KinematicDriver-v0", render_mode="human")
    with pytest.warns(UserWarning, match="display"):
        env.reset(seed=0)
    figure = plt.figure("KinematicDriverVectorEnv")
    (image,) = figure.axes[0].images
    for _ in range(3):
        shown = np.array(image.get_array())
        env.step(np.array([0.2, 0.5], np.float32))
        assert (image.get_array() != shown).any()
    assert env.render() is None
    np.testing.assert_array_equal(image.get_array(), env.unwrapped.batch.render_row(0))
    env.close()
    assert "KinematicDriverVectorEnv" not in plt.get_figlabels()
    vector = gym.make_vec("KinematicDriver-v0", num_envs=2, render_mode="human")
    with pytest.warns(UserWarning, match="display"):
        vector.reset(seed=0)
    vector.close()
    assert not plt.get_figlabels()


def test_bad_use_is_refused() -> None:
    for kwargs, message in (
        ({"max_episode_steps": 5}, "max_episode_steps"),
        ({"view": "side"}, "view"),
        ({"ranges": {"friction": (2.0, 3.0)}}, "friction"),
        ({"reward": {"comfort": 2.0}}, "comfort"),
        ({"reward": {"confort": 0.2}}, "did you mean"),
    ):
        with pytest.raises(InputError, match=message):
            KinematicDriverVectorEnv(1, **kwargs)
    env = make(1)
    env.reset(seed=0)
    with pytest.raises(InputError, match="NaN"):
        env.step(np.array([[np.nan, 0.0]]))


def test_noise_options_are_pinned_to_nothing() -> None:
    env = make(3)
    _, info = env.reset(seed=0, options=EXACT)
    for name, value in EXACT.items():
        assert (info[name] == value).all()


@pytest.mark.parametrize("backend", ["numpy", "auto"])
def test_new_reward_weights_pay_from_the_next_step_on(backend: str) -> None:
    """Shaping by the new weights has to start from the new potential of where the car is."""
    env = KinematicDriverVectorEnv(3, backend=backend, reward={"shaping": 1.0})
    env.reset(seed=4)
    env.step(np.zeros((3, 2), np.float32))

    def potential(info: dict[str, Any]) -> Any:  # of weights with off_centre_full=2, by hand
        return 3.0 * np.maximum(
            1 - np.abs(info["cte"]) / 4.0 - 2 * np.abs(info["heading_error"]), 0
        )

    *_, before = env.step(np.zeros((3, 2), np.float32))
    env.set_attr("reward", {"shaping": 3.0, "off_centre_full": 2.0, "discount": 0.9})
    _, rewards, _, _, after = env.step(np.zeros((3, 2), np.float32))
    expected = after["base_reward"] + 0.9 * potential(after) - potential(before)
    np.testing.assert_allclose(rewards, expected, atol=1e-5)
