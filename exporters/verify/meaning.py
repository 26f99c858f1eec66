"""Checks of what the outputs mean: read back, physics of the plan, steering, image packing."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from steerlab.errors import InputError
from steerlab.exporters.verify.base import Fail, Skip, Subject
from steerlab.openpilot.commands import plan_curvature
from steerlab.openpilot.contracts import T_IDXS, YUV_PHASES, head_of_width, plan_column
from steerlab.openpilot.images import image_pair, pack_i420
from steerlab.openpilot.outputs import parse
from steerlab.types import Array

_CONSISTENT = 0.1  # relative error of a plan's integrals
_UNTRAINED = "untrained=true: the plan is not expected to drive"
_NOT_RECORDED = (
    "no recorded inputs: on random ones a sound policy may say anything; give probe= with inputs "
    "that were recorded while it drove"
)


def meaning(subject: Subject) -> str:
    """The outputs read back as the network means them."""
    outputs, slices = subject.ran(), subject.heads()
    wanted = subject.known.meaning
    if not wanted:
        raise Skip("no probe beside the file: what the network means is not known")
    wrong = _differences(parse(slices, outputs), wanted)
    if not wrong:
        return f"{len(wanted)} tensors read back as the network means them"
    for reading, remedy in _WRONG_READINGS.items():
        if not _differences(reading(slices, outputs), {n: wanted[n] for n in wrong}):
            raise Fail(f"{', '.join(wrong)} read back wrong", remedy)
    raise Fail(
        f"{', '.join(wrong)} read back wrong",
        "pack with steerlab.openpilot.outputs.pack; check order and slices",
    )


def _differences(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> list[str]:
    return [
        name
        for name, values in wanted.items()
        if name not in found
        or found[name].shape != values.shape
        or not np.allclose(found[name], values, rtol=1e-3, atol=1e-4)
    ]


def _read_interleaved(slices: Mapping[str, slice], outputs: Array) -> dict[str, Array]:
    """Parse as if every mean were followed by its own standard deviation."""

    def apart(values: Array, size: int) -> Array:
        pairs = values.reshape(*values.shape[:-1], size, 2)
        return np.concatenate([pairs[..., 0], pairs[..., 1]], axis=-1)

    return _read_changed(slices, outputs, apart)


def _read_softplus(slices: Mapping[str, slice], outputs: Array) -> dict[str, Array]:
    """Parse as if a standard deviation were the softplus of its value."""

    def logarithms(values: Array, size: int) -> Array:
        std = np.logaddexp(0.0, values[..., size:].astype(float))
        return np.concatenate([values[..., :size], np.log(np.maximum(std, 1e-30))], axis=-1)

    return _read_changed(slices, outputs, logarithms)


def _read_changed(
    slices: Mapping[str, slice], outputs: Array, change: Callable[[Array, int], Array]
) -> dict[str, Array]:
    """Parse after ``change`` of means and log-stds (..., 2 size) of every Gaussian."""
    outputs = outputs.copy()
    for name, place in gaussians(slices, outputs):
        head = head_of_width(name, outputs[:, place].shape[1])
        part = outputs[:, place].reshape(len(outputs), head.hypotheses, -1)
        part[..., : 2 * head.size] = change(part[..., : 2 * head.size], head.size)
        outputs[:, place] = part.reshape(len(outputs), -1)
    return parse(slices, outputs)


def _read_mirrored(slices: Mapping[str, slice], outputs: Array) -> dict[str, Array]:
    """Parse as if yaw and curvature were positive to the left."""
    parsed = parse(slices, outputs)
    for name in [n for n in parsed if n.startswith("plan") and parsed[n].shape[-1:] == (15,)]:
        if "_stds" not in name:
            parsed[name] = parsed[name].copy()
            parsed[name][..., [plan_column("yaw"), plan_column("yaw_rate")]] *= -1.0
    if "desired_curvature" in parsed:
        parsed["desired_curvature"] = -parsed["desired_curvature"]
    return parsed


_INTERLEAVED = (
    "means and standard deviations are interleaved: write all means, then all log-stds, row-major"
)
_LEFT = "yaw is positive to the left: openpilot's is positive to the right, change the sign"
_WRONG_READINGS: dict[Callable[[Mapping[str, slice], Array], dict[str, Array]], str] = {
    _read_interleaved: _INTERLEAVED,
    _read_softplus: "standard deviations go through softplus: the consumer takes exp, so write "
    "their logarithm",
    _read_mirrored: _LEFT,
}


def gaussians(slices: Mapping[str, slice], outputs: Array) -> Iterator[tuple[str, slice]]:
    """Yield name and place of every head that is a Gaussian or a mixture of them."""
    for name, place in slices.items():
        with contextlib.suppress(InputError):
            if head_of_width(name, outputs[:, place].shape[1]).kind in ("gaussian", "mixture"):
                yield name, place


def plan_physics(subject: Subject) -> str:
    """Positions of the plan are the integral of its velocities, yaw of its rate."""
    plan = subject.plan()
    error = _inconsistency(plan)
    if error < _CONSISTENT:
        if _turns_against_its_path(plan):
            raise Fail("yaw turns against the path in x and y", _LEFT)
        return f"positions are the integral of velocities, yaw of its rate (to {error:.1%})"
    read = _read_interleaved(subject.heads(), subject.ran())["plan"]
    if _inconsistency(read.astype(float)) < _CONSISTENT:
        raise Fail("the plan makes sense only when it is read in pairs", _INTERLEAVED)
    if subject.options.untrained:
        raise Skip(_UNTRAINED)
    if not subject.known.recorded:
        raise Skip(_NOT_RECORDED)
    raise Fail(
        f"the plan contradicts itself: its positions miss the integral of its velocities by "
        f"{error:.0%}",
        "train every column of the plan, not desired_curvature alone: the plan steers. For a "
        "network without training set untrained=true",
    )


def _inconsistency(plan: Array) -> float:
    """Return the largest relative error of x, y and yaw against the integrals of their rates."""
    worst = 0.0
    for value, rate in (("x", "vx"), ("y", "vy"), ("yaw", "yaw_rate")):
        v, r = plan[..., plan_column(value)], plan[..., plan_column(rate)]
        steps = 0.5 * (r[:, 1:] + r[:, :-1]) * np.diff(T_IDXS)
        integral = np.concatenate([np.zeros((len(v), 1)), np.cumsum(steps, axis=1)], axis=1)
        scale = np.sqrt(np.mean(integral**2)) + 1e-3
        worst = max(worst, float(np.sqrt(np.mean((v - v[:, :1] - integral) ** 2)) / scale))
    return worst


def _turns_against_its_path(plan: Array) -> bool:
    yaw, vx, y = (plan[..., plan_column(n)] for n in ("yaw", "vx", "y"))
    sideways = np.cumsum(0.5 * (vx * yaw)[:, 1:] * np.diff(T_IDXS), axis=1)
    moved = y[:, 1:] - y[:, :1]
    return bool((sideways * moved).sum() < -0.1 * np.sum(moved**2) < 0)


def steering(subject: Subject) -> str:
    """The plan steers, and to the side to which was driven."""
    plan, probe = subject.plan(), subject.known
    speed = probe.v_ego if probe.v_ego is not None else plan[:, 0, plan_column("vx")]
    curvature = plan_curvature(subject.contract.command, plan, speed, 0.35)
    if probe.driven_curvature is not None and np.std(probe.driven_curvature) > 1e-6:
        return _as_driven(subject, curvature, probe.driven_curvature)
    if "desired_curvature" not in subject.heads():
        raise Skip("neither driven_curvature in the probe nor desired_curvature in the file")
    head = subject.parsed()["desired_curvature"][:, 0]
    likeness = _correlation(curvature, head)
    if np.std(head) < 1e-7 or likeness > 0.5:
        return f"the plan steers with desired_curvature (correlation {likeness:.2f})"
    if subject.options.untrained:
        raise Skip(_UNTRAINED)
    # What a sound policy says to random inputs may be anything, but not the same to all of them.
    if not probe.recorded and np.std(curvature) > 1e-7:
        raise Skip(_NOT_RECORDED)
    raise Fail(
        f"the plan does not steer as desired_curvature says (correlation {likeness:.2f})",
        "train the plan: it steers, desired_curvature is read and thrown away",
    )


def _as_driven(subject: Subject, curvature: Array, driven: Array) -> str:
    likeness = _correlation(curvature, driven)
    if likeness < -0.5:
        raise Fail(f"steers opposite to what was driven (correlation {likeness:.2f})", _LEFT)
    if likeness < 0.5 and not subject.options.untrained:
        raise Fail(
            f"does not steer as was driven (correlation {likeness:.2f})",
            "train the plan's yaw and yaw rate: they steer, desired_curvature does not",
        )
    return f"as was driven (correlation {likeness:.2f})"


def _correlation(a: Array, b: Array) -> float:
    if np.std(a) < 1e-9 or np.std(b) < 1e-9:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def images(subject: Subject) -> str:
    """The image inputs are what their frames pack to."""
    probe = subject.probe
    if probe is None or probe.raw_frames is None or "img" not in probe.inputs:
        raise Skip("no raw frames in the probe to hold the packing against")
    frames = pack_i420(probe.raw_frames)  # (K, 2, 6, 128, 256)
    wanted = image_pair(frames[:, 0], frames[:, 1])
    found = probe.inputs["img"].reshape(wanted.shape)
    if np.array_equal(found, wanted):
        return f"{len(found)} pairs are packed in the order {YUV_PHASES}"
    swapped = wanted[:, [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]]
    if np.array_equal(found, swapped):
        raise Fail(
            "channels 1 and 2 of the brightness are swapped",
            "the order is (even row, even column), (odd, even), (even, odd), (odd, odd): follow "
            "the code of loadyuv.cl, not the README of the models; pack with pack_yuv",
        )
    raise Fail("img is not what its frames pack to", "pack with pack_yuv, frame t-4 before t")
