"""Plans as training data: one npz file, with the keys of the published data."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steerlab.agents.classical.tracking import optimal_controls
from steerlab.agents.supervised import TensorData
from steerlab.envs.tracking.double_integrator import DoubleIntegrator
from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.envs.tracking.problems import dump_problem, parse_problem
from steerlab.errors import InputError
from steerlab.readers.arrays import read_arrays, write_arrays
from steerlab.types import Floats

#: What generate-lqr calls its file.
PLANS_FILE = "lqr_dataset.npz"

#: Arrays of a file, float64: N cases, T steps.
KEYS = (
    "initial_states",  # (N, 2)
    "target_states",  # (N, 2)
    "control_sequences",  # (N, T, 1)
    "state_trajectories",  # (N, T+1, 2)
    "costs",  # (N,) of the control sequences
    "optimal_costs",  # (N,) of the best there are
)


class PlanData(TensorData):
    """Cases with their plans, for :func:`steerlab.agents.trc.train`.

    Attributes:
        problem: What the plans solve.
        arrays: The arrays of :data:`KEYS`.
    """

    def __init__(self, problem: TrackingProblem, arrays: dict[str, Floats]) -> None:
        self.problem, self.arrays = problem, arrays
        stage = problem.stage_costs(
            arrays["state_trajectories"], arrays["control_sequences"], arrays["target_states"]
        )
        super().__init__(
            states=_float(arrays["state_trajectories"]),
            targets=_float(arrays["target_states"]),
            controls=_float(arrays["control_sequences"][..., 0]),
            # The cost from each step on: the scale of a loss that starts there.
            to_go=_float(stage[:, ::-1].cumsum(axis=1)[:, ::-1]),
        )

    def take(self, rows: NDArray[np.intp]) -> "PlanData":
        """Return the cases at ``rows``."""
        return PlanData(self.problem, {key: values[rows] for key, values in self.arrays.items()})


def make_arrays(
    problem: TrackingProblem, initial: Floats, targets: Floats, controls: Floats, best: Floats
) -> dict[str, Floats]:
    """Return the arrays of :data:`KEYS` for ``controls`` (N, T, 1), with optimal costs ``best``."""
    values = (
        initial,
        targets,
        controls,
        problem.rollout(initial, controls),
        problem.cost(initial, targets, controls),
        best,
    )
    return dict(zip(KEYS, values, strict=True))


def save_plans(path: str | Path, problem: TrackingProblem, arrays: dict[str, Floats]) -> None:
    """Write the arrays of :data:`KEYS` and the problem to an npz file."""
    write_arrays(path, {"problem": dump_problem(problem), **arrays})


def load_plans(path: str | Path, problem: TrackingProblem | None = None) -> PlanData:
    """Read plans written by :func:`save_plans`, or by the published generator.

    Args:
        path: npz file. It must hold the initial and target states and the control sequences; what
            else is missing is computed.
        problem: What the plans solve. By default what the file says, or else, as with files of the
            published generator, the double integrator without terminal cost.

    Raises:
        InputError: There is no such file, it lacks an array, or the shapes do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}; make one with steerlab generate-lqr")
    found = read_arrays(path)
    if wrong := [k for k in KEYS if k in found and found[k].dtype.kind not in "fiu"]:
        raise InputError(
            f"{wrong[0]!r} in {str(path)!r} holds {found[wrong[0]].dtype}, not numbers"
        )
    arrays = {k: found[k].astype(np.float64) for k in KEYS if k in found}
    said = str(found["problem"]) if "problem" in found else None
    missing = [key for key in KEYS[:3] if key not in arrays]
    if missing:
        raise InputError(f"{str(path)!r} lacks {', '.join(missing)}; it has {', '.join(arrays)}")
    initial, targets, controls = (arrays[key] for key in KEYS[:3])
    if controls.ndim != 3:
        raise InputError(f"{str(path)!r}: controls have shape {controls.shape}, need (N, T, 1)")
    problem = problem or (
        parse_problem(said)
        if said
        else DoubleIntegrator.preset("published", steps=controls.shape[1])
    )
    count = len(initial)
    expected = ((count, 2), (count, 2), (count, problem.steps, 1))
    shapes = tuple(a.shape for a in (initial, targets, controls))
    if shapes != expected or not count:
        raise InputError(
            f"{str(path)!r}: states, targets and controls have shapes {shapes}, need {expected}"
        )
    if not all(np.isfinite(a).all() for a in arrays.values()):
        raise InputError(f"{str(path)!r} holds numbers that are not finite")
    best = arrays.get("optimal_costs")
    if best is not None and best.shape != (count,):
        raise InputError(f"{str(path)!r}: optimal_costs have shape {best.shape}, need ({count},)")
    if best is None:
        best = problem.cost(initial, targets, optimal_controls(problem, initial, targets))
    return PlanData(problem, make_arrays(problem, initial, targets, controls, best))


def load_controls(path: str | Path, cases: PlanData) -> Floats:
    """Return the control sequences (N, T, 1) of another method for ``cases``.

    Args:
        path: npz file with ``control_sequences``. Where it holds ``initial_states`` or
            ``target_states`` too, they must be those of ``cases``, in that order.
        cases: The cases that the plans are for.

    Raises:
        InputError: There is no such file, or it holds no plans for these cases.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}")
    found = read_arrays(path)
    if "control_sequences" not in found:
        raise InputError(f"{str(path)!r} lacks control_sequences; it has {', '.join(found)}")
    controls, expected = found["control_sequences"], (len(cases), cases.problem.steps, 1)
    if controls.dtype.kind not in "fiu" or controls.shape != expected:
        raise InputError(
            f"{str(path)!r}: control_sequences are {controls.dtype} {controls.shape}, the cases need "
            f"numbers {expected}"
        )
    if not np.isfinite(controls).all():
        raise InputError(f"{str(path)!r} holds numbers that are not finite")
    for key in KEYS[:2]:
        same = key not in found or (
            found[key].shape == cases.arrays[key].shape
            and found[key].dtype.kind in "fiu"
            and np.allclose(found[key], cases.arrays[key], rtol=1e-5, atol=1e-5)
        )
        if not same:
            raise InputError(
                f"{str(path)!r}: {key} are not those of the test cases in their order; plan for the "
                "cases of test_data=, one after the other"
            )
    return controls.astype(np.float64)


def load_dataset(
    path: str | Path, valid_fraction: float = 0.1, seed: int = 42
) -> tuple[PlanData, PlanData]:
    """Read plans and split them into training and validation cases.

    Raises:
        InputError: See :func:`load_plans`, or a part would be empty.
    """
    data = load_plans(path)
    held_out = round(valid_fraction * len(data))
    if not 0 < held_out < len(data):
        raise InputError(
            f"valid_fraction={valid_fraction} of {len(data)} cases leaves a part empty; "
            "give more cases or another fraction"
        )
    order = np.random.default_rng(seed).permutation(len(data))
    return data.take(order[held_out:]), data.take(order[:held_out])


def _float(array: Floats) -> Tensor:
    return torch.tensor(np.ascontiguousarray(array), dtype=torch.float32)
