"""Plans, leads and the rest on drives whose answers are known."""

import dataclasses

import numpy as np
import pytest

from steerlab.agents.classical.route_driver import route_driver
from steerlab.envs.cameras.geometry import Mount
from steerlab.envs.kinematic_driver.dynamics import curvature_scale
from steerlab.envs.labels.hindsight import driven
from steerlab.envs.labels.labels import SHAPES, labels
from steerlab.envs.labels.plan import Situation, recover, shaped_plan
from steerlab.openpilot.commands import action_times, plan_acceleration, plan_curvature
from steerlab.openpilot.contracts import contract
from tests.envs.labels.drives import drive

RULE = contract("openpilot-0.10.0").command
T_IDXS = 10.0 * (np.arange(33) / 32) ** 2
X, Y, VX, YAW, YAW_RATE = 0, 1, 3, 11, 14
FIRST = np.array([20])


def test_every_label_has_its_shape() -> None:
    record = drive("arc", cars=[(90.0, 0.0, 13.0)])
    ticks = np.array([0, 40, 80])
    found = labels(record, ticks, route_driver, RULE)
    assert {name: a.shape for name, a in found.items()} == {n: (3, *s) for n, s in SHAPES.items()}
    for name, values in found.items():
        assert values.dtype == (bool if name.endswith("_valid") else np.float32)
        assert np.isfinite(values).all()


@pytest.mark.parametrize(("shape", "bend"), [("straight", 0.0), ("arc", 1 / 298.25)])
def test_teacher_in_the_middle_goes_on_along_the_lane(shape: str, bend: float) -> None:
    # The middle of lane -1 is 1.75 m inside the reference line of an arc of 300 m to the right.
    record = drive(shape, speed=16.0)
    plan = labels(record, FIRST, route_driver, RULE)["plan"][0]
    here = T_IDXS < 6
    yaw = plan[here, YAW]
    way = np.append(
        0,
        np.cumsum(
            np.diff(T_IDXS) * 0.5 * (np.hypot(*plan[1:, 3:5].T) + np.hypot(*plan[:-1, 3:5].T))
        ),
    )
    np.testing.assert_allclose(yaw, bend * way[here], atol=0.006)
    if bend:
        y = (1 - np.cos(bend * way)) / bend
        np.testing.assert_allclose(plan[here, Y], y[here], atol=0.25)
    else:
        np.testing.assert_allclose(plan[here, Y], 0.0, atol=1e-3)


def test_plan_leads_back_to_the_middle() -> None:
    record = drive("arc", speed=15.0, offset=0.7)
    recovery = recover(record, FIRST, route_driver)
    assert abs(recovery.offset[0, 0] - 0.7) < 1e-9
    assert np.abs(recovery.offset[0, T_IDXS > 5]).max() < 0.1
    plan = shaped_plan(record, FIRST, recovery, RULE)[0].astype(float)
    # The plan itself, put into the world, ends up where the drive did.
    heading = record.rpy[20, 2]
    turn = np.array([[np.cos(heading), np.sin(heading)], [-np.sin(heading), np.cos(heading)]])
    world = record.position[20, :2] + plan[:, :2] @ turn
    s, offset, _ = record.path.locate(world, heading + plan[:, YAW], 0.0, np.inf)
    # The shape holds the first command for a second, which the drive does not; later they meet.
    miss = np.abs(offset - recovery.offset[0])
    assert miss.max() < 0.6
    assert miss[T_IDXS > 4].max() < 0.1
    assert np.abs(s - recovery.s[0]).max() < 0.3


@pytest.mark.parametrize("speed", [6.0, 9.0, 13.0])
@pytest.mark.parametrize("turned", [0.5, 1.3])
def test_far_from_the_heading_of_the_road_the_plan_is_still_the_drive(
    speed: float, turned: float
) -> None:
    """The teacher asks for what a car can do, and the plan follows it round the corner."""
    straight = drive("straight", speed=speed, offset=2.0)
    rpy = straight.rpy + np.array([0.0, 0.0, turned])
    state = straight.state._replace(psi=straight.state.psi + turned)
    record = dataclasses.replace(straight, state=state, rpy=rpy)
    recovery = recover(record, FIRST, route_driver)
    assert recovery.curvature == pytest.approx(-curvature_scale(np, recovery.speed[:, 0]))
    plan = shaped_plan(record, FIRST, recovery, RULE)
    away = np.linalg.norm(plan[..., :2] - recovery.place, axis=-1)
    assert away[recovery.known].max() < 2.0
    assert np.abs(plan[..., YAW_RATE]).max() < 1.0
    assert plan[..., VX].max() < 1.2 * recovery.speed.max()


def test_rule_reads_the_teachers_command_from_the_plan() -> None:
    record = drive("arc", speed=15.0, offset=-0.5, cars=[(75.0, 0.0, 9.0)])
    recovery = recover(record, FIRST, route_driver)
    plan = shaped_plan(record, FIRST, recovery, RULE)
    late = action_times(RULE, 0.2, 0.3)
    v = np.asarray(record.state.v)[FIRST]
    np.testing.assert_allclose(
        plan_curvature(RULE, plan, v, late[0]), recovery.curvature, atol=2e-5
    )
    np.testing.assert_allclose(
        plan_acceleration(RULE, plan, late[1]), recovery.acceleration, atol=2e-3
    )
    assert recovery.curvature[0] > 1 / 298  # left of the middle: more to the right than the bend


def test_columns_are_integrals() -> None:
    record = drive("clothoid", offset=0.5)
    plan = labels(record, np.array([0, 50]), route_driver, RULE)["plan"].astype(float)
    step = np.diff(T_IDXS)[None, :, None]
    summed = np.cumsum(0.5 * step * (plan[:, 1:, 3:5] + plan[:, :-1, 3:5]), axis=1)
    np.testing.assert_allclose(plan[:, 1:, :2], summed, atol=2e-3)


def test_stops_where_it_must_and_behind_a_standing_car() -> None:
    record = drive("straight", speed=12.0, stop=100.0)
    recovery = recover(record, np.array([0]), route_driver)
    front = recovery.s[0] + 3.7
    assert 95 < front[-1] < 100
    assert recovery.speed[0, -1] < 0.3
    standing = recover(
        drive("straight", speed=12.0, cars=[(130.0, 0.2, 0.0)]), np.array([0]), route_driver
    )
    assert 119 < standing.s[0, -1] + 3.7 < 130 - 2.3
    aside = recover(
        drive("straight", speed=12.0, cars=[(130.0, 3.5, 0.0)]), np.array([0]), route_driver
    )
    assert aside.s[0, -1] > 150


def test_known_ends_with_the_route() -> None:
    record = drive("straight", speed=14.0, begin=300.0, ticks=100)
    recovery = recover(record, np.array([0]), route_driver)
    np.testing.assert_array_equal(recovery.known[0], recovery.s[0] + 3.7 < record.path.s[-1])
    assert 10 < recovery.known.sum() < 33


def test_driven_plan_is_the_circle() -> None:
    record = drive("arc", speed=15.0, ticks=220)
    plans, known = driven(record, np.array([0, 60]))
    radius = 300 - 1.75
    angle = 15.0 * T_IDXS / radius
    np.testing.assert_allclose(plans[0, :, X], radius * np.sin(angle), atol=0.02)
    np.testing.assert_allclose(plans[0, :, Y], radius * (1 - np.cos(angle)), atol=0.02)
    np.testing.assert_allclose(plans[0, :, YAW], angle, atol=1e-4)
    np.testing.assert_allclose(plans[0, :, YAW_RATE], 15 / radius, atol=1e-4)
    np.testing.assert_allclose(np.hypot(plans[0, :, VX], plans[0, :, 4]), 15.0, atol=1e-4)
    np.testing.assert_allclose(plans[0, 5, 7], 15**2 / radius, atol=0.01)  # towards the middle
    assert known[0].all()
    np.testing.assert_array_equal(known[1], T_IDXS <= 7.951)  # 219 - 60 ticks


def test_lead() -> None:
    record = drive(
        "straight", speed=12.0, ticks=101, cars=[(40 + 30.0, 0.3, 9.0), (120.0, 3.5, 0.0)]
    )
    found = labels(record, np.array([0]), route_driver, RULE)
    lead, valid = found["lead"][0], found["lead_valid"][0]
    assert found["lead_prob"][0].tolist() == [1, 1, 1]
    np.testing.assert_array_equal(valid[0], [True, True, True, False, False, False])  # 5 s known
    # From the lens, 1.5 m ahead of the rear axle, to the bumper half a length behind the middle.
    np.testing.assert_allclose(
        lead[0, :3, 0], 30 - 2.3 - 1.5 + 9.0 * np.array([0, 2, 4]), atol=1e-3
    )
    np.testing.assert_allclose(lead[0, :3, 1], 0.3, atol=1e-3)
    np.testing.assert_allclose(lead[0, :3, 2], 9.0)
    nobody = labels(drive("straight"), np.array([0]), route_driver, RULE)
    assert nobody["lead_prob"].sum() == 0
    assert nobody["lead_prob_valid"].all()


def test_a_hidden_lead_is_no_lead_yet() -> None:
    # A van right before the lens hides the car ahead of it: it is the lead itself.
    record = drive("straight", cars=[(52.0, 0.0, 14.0), (64.0, 0.0, 14.0)])
    lead = labels(record, FIRST, route_driver, RULE)["lead"][0, 0]
    assert lead[0, 0] == pytest.approx(52 - 40 - 2.3 - 1.5, abs=0.01)


def test_motion_of_the_device() -> None:
    mount = Mount(rpy=(0.02, 0.01, -0.03), height=1.3, wide=(0.001, 0.002, 0.003))
    record = drive("arc", speed=15.0, mount=mount)
    found = labels(record, FIRST, route_driver, RULE)
    rate = 15 / 298.25
    pose = found["pose"][0]
    np.testing.assert_allclose(pose[:2], [15.0, 1.5 * rate], atol=2e-3)  # 1.5 m ahead of the axle
    np.testing.assert_allclose(pose[5], rate * np.cos(0.02), atol=1e-4)
    np.testing.assert_allclose(found["road_transform"][0], [0, 0, 1.3, -0.02, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found["wide_from_device_euler"][0], mount.wide, atol=1e-6)
    np.testing.assert_array_equal(found["traffic_convention"][0], [1, 0])
    np.testing.assert_allclose(found["lateral_control_params"][0], [15.0, 0.2], atol=1e-6)


def test_desire_and_meta() -> None:
    record = drive("straight", ticks=101)
    record.desire[30:70] = 3  # laneChangeLeft
    np.asarray(record.state.a)[55:60] = -4.2
    record.commands[40:60, 1] = -4.0
    found = labels(record, np.array([20]), route_driver, RULE)
    assert found["desire_state"][0].argmax() == 0
    np.testing.assert_array_equal(found["desire_pred_valid"][0], [True, True, False, False])
    assert found["desire_pred"][0, 0].argmax() == 3  # tick 60
    meta, valid = found["meta"][0], found["meta_valid"][0]
    assert meta[0] == 1
    assert valid[0]
    # Braking harder than 3 and 4 but not than 5 m/s^2 within 2 s; gas and disengagements unknown.
    np.testing.assert_array_equal(meta[4:7], [1, 1, 0])
    assert not valid[1:4].any()
    np.testing.assert_array_equal(meta[31:35], [0, 0, 0, 0])
    np.testing.assert_array_equal(meta[35:39], [0, 0, 1, 0])  # tick 60: no brake, blinker left
    assert not valid[31 + 4 * 5 :].any()


def test_teacher_sees_what_is_there() -> None:
    seen: list[Situation] = []

    def note(situation: Situation) -> tuple[np.ndarray, np.ndarray]:
        seen.append(situation)
        return 0 * situation.speed, 0 * situation.speed

    recover(drive("straight", speed=10.0, cars=[(80.0, 0.0, 6.0)], stop=200.0), np.array([0]), note)
    first, later = seen[0], seen[40]
    assert first.gap[0] == pytest.approx(80 - 2.3 - 40 - 3.7, abs=1e-3)
    assert later.gap[0] == pytest.approx(34.0 - 2.0 * (10 - 6), abs=0.05)
    assert first.stop[0] == pytest.approx(200 - 43.7)
    assert first.lead_speed[0] == 6.0
