"""Plans: the rule reads the wanted command from them, and their columns fit one another."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from steerlab.openpilot.commands import plan_acceleration, plan_curvature
from steerlab.openpilot.contracts import T_IDXS, contract, contract_ids, plan_column
from steerlab.openpilot.plan import FREE, SHARED, Near, PlanShape


def near(**values: float) -> Near:
    given = {
        "speed": 15.0, "acceleration": 0.0, "yaw_rate": 0.0, "curvature": 0.0, "pedal": 0.0,
        "t_lateral": 0.5, "t_longitudinal": 0.5,
    } | values  # fmt: skip
    return Near(**{n: torch.tensor([v], dtype=torch.float64) for n, v in given.items()})


def plans(begin: Near, rule: str = "openpilot-0.10.0", seed: int | None = None) -> torch.Tensor:
    shape = PlanShape(contract(rule).command).double()
    bends = torch.zeros(1, 5, FREE, dtype=torch.float64)
    pedals = bends
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        bends = 0.1 * torch.randn(bends.shape, generator=generator, dtype=torch.float64)
        pedals = 0.5 * torch.randn(bends.shape, generator=generator, dtype=torch.float64)
    return shape(begin, bends, pedals)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(contract_ids()),
    st.floats(4.0, 35.0),
    st.floats(-3.0, 3.0),
    st.floats(-3.0, 3.0),
    st.floats(-3.0, 2.0),
    st.floats(-3.0, 2.0),
    st.floats(0.16, 0.95),
    st.integers(0, 100),
)
def test_the_rule_reads_the_command(
    id: str, v: float, lateral: float, now: float, a: float, pedal: float, t: float, seed: int
) -> None:
    rule = contract(id).command
    square = max(v, 5.0) ** 2
    begin = near(
        speed=v, yaw_rate=now / max(v, 5.0), curvature=lateral / square, acceleration=a,
        pedal=pedal, t_lateral=t,
    )  # fmt: skip
    for plan in plans(begin, id, seed)[0]:  # every hypothesis gives the same command
        found = plan_curvature(rule, plan[None].numpy(), v, t)
        assert found.item() == pytest.approx(lateral / square, abs=1e-9)
        found = plan_acceleration(rule, plan[None].numpy(), 0.5)
        assert found.item() == pytest.approx(pedal, abs=1e-5)  # the times are kept in float32


@pytest.mark.parametrize("seed", range(3))
def test_columns_are_integrals_of_one_another(seed: int) -> None:
    begin = near(speed=12.0, yaw_rate=0.05, curvature=0.02, acceleration=0.3, pedal=-0.4)
    found = plans(begin, seed=seed)[0].numpy()
    for value, rate in (("x", "vx"), ("y", "vy"), ("yaw", "yaw_rate")):
        v, r = found[..., plan_column(value)], found[..., plan_column(rate)]
        steps = 0.5 * (r[:, 1:] + r[:, :-1]) * np.diff(T_IDXS)
        np.testing.assert_allclose(v[:, 1:], np.cumsum(steps, 1), atol=0.01)
    rate = np.gradient(found[..., plan_column("vy")], T_IDXS, axis=1)[:, 1:-1]
    # The rates bend at the knots, where differences over the grid are coarse.
    assert np.percentile(np.abs(found[:, 1:-1, plan_column("ay")] - rate), 90) < 0.2
    assert not found[..., [plan_column(n) for n in ("z", "vz", "az", "roll", "pitch")]].any()


def test_a_constant_turn_is_a_circle() -> None:
    begin = near(speed=10.0, yaw_rate=0.2, curvature=0.02)
    plan = plans(begin)[0, 0].numpy()
    yaw = 0.2 * T_IDXS
    at = T_IDXS <= SHARED  # speed along the path makes up for the rule's view of it
    np.testing.assert_allclose(plan[at, plan_column("yaw")], yaw[at], atol=1e-6)
    np.testing.assert_allclose(plan[at, plan_column("y")], 50 * (1 - np.cos(yaw[at])), atol=0.03)
    np.testing.assert_allclose(plan[at, plan_column("ay")], 2.0 * np.cos(yaw[at]), atol=0.1)


def test_hypotheses_part_after_the_command() -> None:
    found = plans(near(curvature=0.01), seed=1)[0].numpy()
    shared = T_IDXS <= SHARED
    same = np.broadcast_to(found[:1, shared], (4, shared.sum(), 15))
    np.testing.assert_allclose(found[1:, shared], same, atol=1e-12)
    assert np.ptp(found[:, -1, plan_column("y")]) > 0.5
