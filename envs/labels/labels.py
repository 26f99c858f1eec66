"""All labels of an episode's frames, by openpilot's names."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.kinematic_driver.dynamics import DT
from steerlab.envs.labels import hindsight
from steerlab.envs.labels.lines import Lines, lines
from steerlab.envs.labels.plan import Teacher, recover, shaped_plan
from steerlab.envs.labels.record import Record
from steerlab.openpilot.contracts import CommandRule
from steerlab.types import Array

#: Shape of each label of a frame. Arrays in ``*_valid`` are true where a label is known.
SHAPES: dict[str, tuple[int, ...]] = {
    "lane_lines": (4, 33, 2), "lane_lines_valid": (4, 33), "lane_lines_prob": (4,),
    "road_edges": (2, 33, 2), "road_edges_valid": (2, 33),
    "lead": (3, 6, 4), "lead_valid": (3, 6), "lead_prob": (3,), "lead_prob_valid": (3,),
    "pose": (6,), "road_transform": (6,), "wide_from_device_euler": (3,),
    "plan": (33, 15), "plan_valid": (33,), "driven": (33, 15), "driven_valid": (33,),
    "desire_state": (8,), "desire_pred": (4, 8), "desire_pred_valid": (4,),
    "meta": (55,), "meta_valid": (55,),
    "traffic_convention": (2,), "lateral_control_params": (2,),
}  # fmt: skip


def labels(
    record: Record, ticks: NDArray[np.intp], teacher: Teacher, rule: CommandRule
) -> dict[str, Array]:
    """Return the labels of the frames at ``ticks`` (B,).

    Args:
        record: The episode.
        ticks: Of the frames.
        teacher: What it would do from each frame is the plan.
        rule: The contract's rule, which reads the teacher's command from the plan.

    Returns:
        The arrays of :data:`SHAPES`, each with an axis B in front: values float32, validity bool.
    """
    ticks = np.asarray(ticks, np.intp)
    result: dict[str, Any] = _lines(record, ticks)
    recovery = recover(record, ticks, teacher)
    result["plan"] = shaped_plan(record, ticks, recovery, rule)
    result["plan_valid"] = recovery.known
    result["driven"], result["driven_valid"] = hindsight.driven(record, ticks)
    result |= hindsight.leads(record, ticks) | hindsight.desires(record, ticks)
    result |= hindsight.meta(record, ticks) | _motion(record, ticks)
    return {
        name: np.asarray(result[name], bool if name.endswith("_valid") else np.float32)
        for name in SHAPES
    }


def current(record: Record) -> dict[str, Array]:
    """Return what can be drawn of a record's last frame: lines, edges and lead; no plan."""
    tick = np.array([record.ticks - 1])
    found: dict[str, Any] = _lines(record, tick) | hindsight.leads(record, tick)
    zero = {name: np.zeros((1, *SHAPES[name])) for name in ("plan", "plan_valid")}
    return {name: values[0] for name, values in (found | zero).items()}


def _lines(record: Record, ticks: NDArray[np.intp]) -> dict[str, Array]:
    """Return lane lines and road edges; the frames are followed along their lanes."""
    found = []
    s, lane = 0.0, -1
    for tick in ticks:
        which = int(record.way_of[tick])
        way = record.ways[which]
        low, high = (0.0, np.inf) if which != lane else (s - 5.0, s + 60.0)
        place = way.path.locate(
            record.position[tick : tick + 1], record.rpy[tick : tick + 1, 2], low, high
        )
        s, lane = float(place[0, 0]), which
        found.append(lines(way, s, *record.frame(int(tick)), record.boxes(int(tick))))
    return {name: np.stack([getattr(f, name) for f in found]) for name in Lines._fields}


def _motion(record: Record, ticks: NDArray[np.intp]) -> dict[str, Array]:
    """Return the labels of the car itself."""
    count, mount = len(ticks), record.mount
    rates = (
        np.gradient(np.unwrap(record.rpy, axis=0), DT, axis=0)
        if record.ticks > 1
        else 0 * record.rpy
    )
    rates = rates[ticks].copy()
    rates[:, 2] = record.yaw_rate[ticks]
    offset = np.array([mount.forward, mount.right, -mount.height])
    speed = np.asarray(record.state.v)[ticks]
    moving = np.stack([speed, 0 * speed, 0 * speed], axis=1) + np.cross(rates, offset)
    turn = mount.calibrated_from_car.T
    road = np.zeros((count, 6))
    road[:, 2], road[:, 3] = mount.height, -mount.rpy[0]
    convention = np.zeros((count, 2))
    convention[:, int(record.left_hand_traffic)] = 1.0
    late = np.full(count, float(record.vehicle.lateral_delay))
    return {
        "pose": np.concatenate([moving @ turn, rates @ turn], axis=1),
        "road_transform": road,
        "wide_from_device_euler": np.broadcast_to(mount.wide, (count, 3)),
        "traffic_convention": convention,
        "lateral_control_params": np.stack([speed, late], axis=1),
    }
