"""Linear-quadratic regulators in discrete time.

The plant is x' = A x + B u, the cost the sum of x' Q x + u' R u. Every gain K is meant as u = -K x.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_discrete_are

from steerlab.errors import InputError
from steerlab.types import Floats


def lqr_gain(A: ArrayLike, B: ArrayLike, Q: ArrayLike, R: ArrayLike) -> tuple[Floats, Floats]:
    """Return the gain K (m, n) and the value matrix P (n, n) of the infinite horizon.

    P solves the discrete algebraic Riccati equation (Anderson and Moore, Optimal Control, 1990).

    Args:
        A: (n, n).
        B: (n, m).
        Q: Positive semidefinite (n, n).
        R: Positive definite (m, m).

    Raises:
        InputError: The shapes do not fit, or no gain stabilises the plant.
    """
    A, B, Q, R = _matrices(A, B, Q, R)
    try:
        P = solve_discrete_are(A, B, Q, R)
    except (np.linalg.LinAlgError, ValueError) as error:
        raise InputError(
            f"the Riccati equation has no stabilising solution ({error}); (A, B) must be "
            "stabilisable, (A, Q) detectable and R positive definite"
        ) from error
    return _gain(A, B, R, P), P


def finite_horizon_gains(
    A: ArrayLike, B: ArrayLike, Q: ArrayLike, R: ArrayLike, terminal: ArrayLike, steps: int
) -> tuple[Floats, Floats]:
    """Return the gains K_k (steps, m, n) and the value matrices P_k (steps + 1, n, n).

    Riccati recursion, backwards from ``P_T = terminal``. A and B may be the same for all steps or
    have a leading axis of ``steps``.

    Raises:
        InputError: The shapes do not fit.
    """
    if steps < 1:
        raise InputError(f"steps={steps} must be at least 1")
    A, B, Q, R = _matrices(A, B, Q, R, steps)
    A = np.broadcast_to(A, (steps, *A.shape[-2:]))
    B = np.broadcast_to(B, (steps, *B.shape[-2:]))
    values = np.empty((steps + 1, *Q.shape))
    gains = np.empty((steps, B.shape[-1], Q.shape[0]))
    values[steps] = terminal
    for k in reversed(range(steps)):
        gains[k] = _gain(A[k], B[k], R, values[k + 1])
        value = Q + A[k].T @ values[k + 1] @ (A[k] - B[k] @ gains[k])
        values[k] = (value + value.T) / 2
    return gains, values


def linearize(
    step: Callable[[Any, Any], Any], state: ArrayLike, control: ArrayLike
) -> tuple[Floats, Floats]:
    """Return A (..., n, n) and B (..., n, m), the derivatives of ``step`` at the given points.

    By a complex step, so exact to rounding; ``step`` must be made of analytic operations (no abs,
    clip or comparison) on arrays with leading axes.

    Args:
        step: Maps states (..., n) and controls (..., m) to the next states (..., n).
        state: (..., n).
        control: (..., m).
    """
    x: Floats = np.asarray(state, dtype=np.float64)
    u: Floats = np.asarray(control, dtype=np.float64)
    tiny = 1e-30
    n, m = x.shape[-1], u.shape[-1]
    directions = 1j * tiny * np.eye(n + m)
    moved = step(x[..., None, :] + directions[:, :n], u[..., None, :] + directions[:, n:])
    both = np.swapaxes(moved.imag / tiny, -1, -2)
    return both[..., :n], both[..., n:]


def _gain(A: Floats, B: Floats, R: Floats, P: Floats) -> Floats:
    return np.asarray(np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A), dtype=np.float64)


def _matrices(
    A: ArrayLike, B: ArrayLike, Q: ArrayLike, R: ArrayLike, steps: int | None = None
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the four as float64, with shapes checked."""
    a, b, q, r = (np.asarray(matrix, dtype=np.float64) for matrix in (A, B, Q, R))
    n, m = a.shape[-1], b.shape[-1]
    lead = ((), (steps,)) if steps else ((),)
    right = (
        a.shape[:-2] in lead
        and b.shape[:-2] in lead
        and a.shape[-2:] == (n, n)
        and b.shape[-2:] == (n, m)
        and q.shape == (n, n)
        and r.shape == (m, m)
    )
    if not right:
        raise InputError(
            f"A {a.shape}, B {b.shape}, Q {q.shape} and R {r.shape} do not fit: "
            "they must be (n, n), (n, m), (n, n) and (m, m)"
        )
    return a, b, q, r
