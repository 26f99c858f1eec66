"""The exact optimum of a linear tracking problem: a quadratic program with bounds.

The states are eliminated, X = free(x0) + G u, so the inputs u (T) are the only unknowns:

    J = constant + f' u + u' H u / 2,   H = 2 (G' Qbar G + R I),   -limit <= u <= limit

H is the same for every case of a problem, and only f changes (for example Borrelli, Bemporad and
Morari, Predictive Control for Linear and Hybrid Systems, 2017, section 8.2).
"""

import contextlib
import importlib.util
import io
import time
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import lsq_linear

from steerlab.agents.classical.lqr import linearize
from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.errors import InputError, unknown_name
from steerlab.types import Floats

#: In the order in which ``auto`` takes the first that is installed. scipy always is.
SOLVERS = ("daqp", "osqp", "scipy")


def choose_solver(name: str = "auto") -> str:
    """Return the solver of that name, or the fastest that is installed.

    Raises:
        InputError: The name is unknown, or the solver is not installed.
    """
    if name == "auto":
        return next(s for s in SOLVERS if importlib.util.find_spec(s))
    if name not in SOLVERS:
        raise unknown_name("QP solver", name, (*SOLVERS, "auto"))
    if not importlib.util.find_spec(name):
        raise InputError(f"solver={name} is not installed: pip install 'steerlab[qp]'")
    return name


def box_qp(
    hessian: Floats, linear: Floats, lower: Floats, upper: Floats, solver: str = "auto"
) -> Floats:
    """Minimise u' H u / 2 + f' u within bounds, one u for each f.

    Args:
        hessian: H, symmetric and positive definite (n, n).
        linear: The vectors f (B, n).
        lower: Lower bounds (n,).
        upper: Upper bounds (n,).
        solver: ``auto``, ``daqp`` (microseconds), ``osqp`` or ``scipy``.

    Returns:
        The minimisers (B, n).

    Raises:
        InputError: The solver is unknown or missing, the shapes do not fit, or a lower bound is
            above its upper bound.
    """
    count = hessian.shape[0]
    if (
        hessian.shape != (count, count)
        or linear.ndim != 2
        or any(v.shape[-1:] != (count,) for v in (linear, lower, upper))
    ):
        raise InputError(
            f"hessian {hessian.shape}, linear {linear.shape} and bounds {lower.shape}, "
            f"{upper.shape} do not fit: they must be (n, n), (B, n), (n,) and (n,)"
        )
    if (lower > upper).any():
        raise InputError("a lower bound of the program is above its upper bound")
    solutions = _BACKENDS[choose_solver(solver)](hessian, linear, lower, upper)
    return np.clip(solutions, lower, upper)  # a solver may pass a bound by its tolerance


def _daqp(hessian: Floats, linear: Floats, lower: Floats, upper: Floats) -> Floats:
    import daqp

    model, none = daqp.Model(), np.zeros((0, len(hessian)))
    solutions = np.empty_like(linear)
    for i, f in enumerate(linear):
        f = np.ascontiguousarray(f)
        if i == 0:
            model.setup(np.ascontiguousarray(hessian), f, none, upper.copy(), lower.copy())
        else:
            model.update(f=f)
        solutions[i], _, flag, _ = model.solve()
        if flag != 1:
            raise RuntimeError(f"daqp ended with exit flag {flag} on program {i}")
    return solutions


def _osqp(hessian: Floats, linear: Floats, lower: Floats, upper: Floats) -> Floats:
    import osqp
    from scipy.sparse import csc_matrix

    model = osqp.OSQP()
    solutions = np.empty_like(linear)
    # Polishing reports on the standard output even when it should be silent.
    with contextlib.redirect_stdout(io.StringIO()):
        for i, f in enumerate(linear):
            if i == 0:
                model.setup(
                    csc_matrix(np.triu(hessian)),
                    f,
                    csc_matrix(np.eye(len(hessian))),
                    lower,
                    upper,
                    verbose=False,
                    polishing=True,
                    eps_abs=1e-10,
                    eps_rel=1e-10,
                    max_iter=100_000,
                )
            else:
                model.update(q=f)
            result = model.solve(raise_error=False)
            if result.info.status_val not in (1, 2):
                raise RuntimeError(f"osqp ended with {result.info.status} on program {i}")
            solutions[i] = result.x
    return solutions


def _scipy(hessian: Floats, linear: Floats, lower: Floats, upper: Floats) -> Floats:
    root = cholesky(hessian)
    right = -solve_triangular(root, linear.T, trans="T").T
    return np.stack(
        [
            lsq_linear(root, b, (lower, upper), method="bvls", tol=1e-14, max_iter=10_000).x
            for b in right
        ]
    )


_BACKENDS = {"daqp": _daqp, "osqp": _osqp, "scipy": _scipy}


@dataclass(frozen=True)
class Condensed:
    """A linear tracking problem with the states eliminated.

    Attributes:
        free: What the initial state does to the states (T+1, 2, 2).
        forced: What the inputs do to the states, G (T+1, 2, T).
        weights: Qbar, the weights of the state errors (T+1, 2).
        hessian: H (T, T).
        limit: Largest absolute input.
    """

    free: Floats
    forced: Floats
    weights: Floats
    hessian: Floats
    limit: float

    def linear_term(self, initial: Floats, targets: Floats) -> tuple[Floats, Floats]:
        """Return f (B, T) and the constant (B,) of J for ``initial`` and ``targets`` (B, 2)."""
        error = np.einsum("kij,bj->bki", self.free, initial) - targets[:, None]
        weighted = error * self.weights
        forced = self.forced.reshape(-1, self.forced.shape[-1])
        return 2 * weighted.reshape(len(error), -1) @ forced, (weighted * error).sum((1, 2))

    def cost(self, initial: Floats, targets: Floats, controls: Floats) -> Floats:
        """Return J (B,) of ``controls`` (B, T, 1)."""
        f, constant = self.linear_term(initial, targets)
        u = controls[..., 0]
        cost: Floats = constant + ((u @ self.hessian / 2 + f) * u).sum(1)
        return cost

    def solve(self, initial: Floats, targets: Floats, solver: str = "auto") -> Floats:
        """Return the optimal controls (B, T, 1)."""
        bound = np.full(len(self.hessian), self.limit)
        f, _ = self.linear_term(initial, targets)
        return box_qp(self.hessian, f, -bound, bound, solver)[..., None]

    def unconstrained(self, initial: Floats, targets: Floats) -> Floats:
        """Return the optimal controls (B, T, 1) of the problem without bounds."""
        f, _ = self.linear_term(initial, targets)
        controls = -np.linalg.solve(self.hessian, f.T).T[..., None]
        return np.asarray(controls, dtype=np.float64)


@lru_cache(maxsize=64)
def condense(problem: TrackingProblem) -> Condensed:
    """Eliminate the states of ``problem``; a nonlinear plant is linearised about rest at 0."""
    A, B = linearize(problem.step, np.zeros(2), np.zeros(1))
    steps = problem.steps
    free = np.stack([np.linalg.matrix_power(A, k) for k in range(steps + 1)])
    forced = np.zeros((steps + 1, 2, steps))
    for k in range(steps):
        forced[k + 1] = A @ forced[k]
        forced[k + 1, :, k] = B[:, 0]
    factors = np.ones((steps + 1, 1))
    factors[steps] = problem.terminal_factor
    weights = factors * problem.state_weights
    flat = forced.reshape(-1, steps)
    hessian = 2 * (flat.T @ (weights.reshape(-1, 1) * flat) + problem.input_weight * np.eye(steps))
    return Condensed(free, forced, weights, (hessian + hessian.T) / 2, problem.limit)


def solver_latency(problem: TrackingProblem) -> dict[str, float]:
    """Return the time in DAQP's own solve call for 1,000 programs, as :func:`steerlab.latency.latency` does."""
    import daqp

    condensed = condense(problem)
    linear, _ = condensed.linear_term(*problem.sample(np.random.RandomState(123), 1000))
    bound = np.full(problem.steps, problem.limit)
    model, times = daqp.Model(), []
    model.setup(condensed.hessian, linear[0].copy(), np.zeros((0, len(bound))), bound, -bound)
    for f in np.concatenate([linear, linear]):  # the first half warms up
        model.update(f=f)
        start = time.perf_counter()
        model.solve()
        times.append(1e6 * (time.perf_counter() - start))
    kept = times[len(linear) :]
    return {"median_us": float(np.median(kept)), "p99_us": float(np.quantile(kept, 0.99))}
