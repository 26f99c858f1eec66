"""The contract tables against the released facts, and against the reference data where it is at hand."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from steerlab.errors import InputError
from steerlab.openpilot.contracts import (
    PLAN_COLUMNS,
    T_IDXS,
    X_IDXS,
    contract,
    contract_ids,
    head_of_width,
    known_heads,
    plan_column,
)

EVERY = [(id, name) for id in contract_ids() for name in contract(id).model_names]


def test_released_slices_of_0_10_0() -> None:
    policy = contract("openpilot-0.10.0").model("driving_policy")
    assert policy.length == 4968
    assert policy.slices == {
        "plan": slice(0, 4955),
        "desire_state": slice(4955, 4963),
        "desired_curvature": slice(4963, 4965),
        "pad": slice(4965, 4968),
    }
    vision = contract("openpilot-0.10.0").model("driving_vision")
    assert vision.length == 1536
    assert vision.slices["hidden_state"] == slice(1022, 1534)
    assert vision.slices["lead"] == slice(917, 1019)


def test_columns_of_a_plan() -> None:
    """As log.capnp's XYZTData and modeld's slices have them: position, ..., Euler angles, rates."""
    columns = [
        "x",
        "y",
        "z",
        "vx",
        "vy",
        "vz",
        "ax",
        "ay",
        "az",
        "roll",
        "pitch",
        "yaw",
        "roll_rate",
        "pitch_rate",
        "yaw_rate",
    ]
    assert tuple(columns) == PLAN_COLUMNS
    assert [plan_column(name) for name in ("x", "vx", "ax", "yaw", "yaw_rate")] == [0, 3, 6, 11, 14]
    assert (len(T_IDXS), T_IDXS[16], T_IDXS[32]) == (33, 2.5, 10.0)
    assert (X_IDXS[16], X_IDXS[32]) == (48.0, 192.0)


@pytest.mark.parametrize(("id", "name"), EVERY)
def test_slices_tile_the_vector(id: str, name: str) -> None:
    model = contract(id).model(name)
    places = sorted(model.slices.values(), key=lambda s: s.start)
    assert places[0].start == 0
    assert places[-1].stop == model.length
    assert all(a.stop == b.start for a, b in itertools.pairwise(places))
    assert set(model.required) <= set(model.slices)


def test_reference_data_agree(shared: Path) -> None:
    path = shared / "reference" / "openpilot_contracts.json"
    if not path.is_file():
        pytest.skip("the reference data are not at hand")
    table = json.loads(path.read_text())
    np.testing.assert_allclose(T_IDXS, table["constants"]["T_IDXS"])
    np.testing.assert_allclose(X_IDXS, table["constants"]["X_IDXS"])
    for id, row in table["contracts"].items():
        for name, facts in row["models"].items():
            model = contract(id).model(name)
            assert {n: (list(i.shape), i.dtype) for n, i in model.inputs.items()} == {
                n: (i["shape"], i["dtype"]) for n, i in facts["inputs"].items()
            }
            known = facts["outputs"] if facts["outputs"]["slices"] else facts.get("suggested")
            if known:
                assert {n: [s.start, s.stop] for n, s in model.slices.items()} == known["slices"]
                assert model.length == known["flat_len"]
            for head, widths in facts["outputs"].get("widths", {}).items():
                assert sorted(model.widths[head]) == sorted(widths)


@pytest.mark.parametrize("name", known_heads())
def test_widths_are_those_of_the_layout(name: str) -> None:
    widths = {w for id, m in EVERY for w in contract(id).model(m).widths.get(name, ())}
    for width in widths:
        assert head_of_width(name, width).width == width


def test_a_choice_of_widths() -> None:
    policy = contract("openpilot-0.10.1").model("driving_policy", heads={"plan": 4955})
    assert policy.slices["desire_state"] == slice(4955, 4963)
    both = contract("openpilot-0.10.1").model("driving_policy", heads={"desired_curvature": 2})
    assert both.slices["desired_curvature"] == slice(998, 1000)


def test_errors_name_the_remedy() -> None:
    with pytest.raises(InputError, match="did you mean"):
        contract("openpilot-0.10.00")
    with pytest.raises(InputError, match="driving_policy"):
        contract("openpilot-0.10.0").model("driving_polisy")
    with pytest.raises(InputError, match="use 4955"):
        contract("openpilot-0.10.0").model("driving_policy", heads={"plan": 990})
    with pytest.raises(InputError, match="needs head 'plan'"):
        contract("openpilot-0.10.1").model("driving_policy", heads={"plan": None})
    with pytest.raises(InputError, match="use 4955 or 990"):
        head_of_width("plan", 17)
    with pytest.raises(InputError, match="yaw_rate"):
        plan_column("yawrate")
