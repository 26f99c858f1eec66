"""Measure planners against the exact solver, and the native task against gymnasium's own vector.

The networks of every size have random weights, since the values do not change the time. The study
prints the median time of a plan in onnxruntime and torch with one thread, and its ratio to DAQP's
solve call in the same run. It also prints steps per second of the native task, and their ratio to
those of SyncVectorEnv.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from steerlab.agents.classical.qp import choose_solver, solver_latency
from steerlab.agents.trc.model import SIZES, MlpPlanner, TinyRecursiveControl
from steerlab.envs.tracking.problems import make_problem
from steerlab.errors import InputError
from steerlab.exporters.planner import BATCHES, planner_inputs, planner_latencies
from steerlab.files import write_json
from steerlab.latency import latency
from steerlab.options import option
from steerlab.study import study
from steerlab.tables import print_table

TASK = "DoubleIntegrator-v0"


@dataclass(frozen=True)
class Config:
    """Options of benchmark-trc."""

    seconds: float = option(1.0, "time spent on each figure, s")
    rows: list[int] = option([1, 64, 1024, 16384], "environments of the native task")


def run(config: Config, output: Path) -> dict[str, Any]:
    """Measure and write the results to ``output``."""
    if config.seconds <= 0 or min(config.rows, default=0) < 1:
        raise InputError("seconds must be positive, and rows a list of positive numbers")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        results = {"plans": _plans(config.seconds), "steps": _steps(config)}
    finally:
        torch.set_num_threads(threads)
    write_json(output / "benchmark.json", results)
    return results


def _plans(seconds: float) -> dict[str, Any]:
    choose_solver("daqp")  # says what to install if it is missing
    problem = make_problem(TASK)
    solver = solver_latency(problem)
    networks = {name: TinyRecursiveControl.of_size(name, problem) for name in SIZES}
    medium = networks["medium"].parameter_count()
    plain = {f"mlp-{c // 1000}k": MlpPlanner.with_parameters(problem, c) for c in (19_000, medium)}
    found: dict[str, Any] = {"daqp": {"solve": solver}}
    rows = [["daqp, solve call", "-", f"{solver['median_us']:.1f}", "-", "-", "-", "1"]]
    for name, model in {**networks, **plain}.items():
        model.eval()
        times = planner_latencies(model, seconds)
        with torch.no_grad():
            for batch in BATCHES:
                inputs = planner_inputs(problem, batch)
                times[f"torch_{batch}"] = latency(lambda m=model, i=inputs: m(*i), seconds)  # type: ignore[misc]
        found[name] = times | {"parameters": model.parameter_count()}
        medians = [
            times[f"{r}_{b}"]["median_us"] for r in ("onnxruntime", "torch") for b in BATCHES
        ]
        ratio = medians[0] / solver["median_us"]
        cells = [f"{us:,.1f}" for us in medians]
        rows.append([name, f"{model.parameter_count():,}", *cells, f"{ratio:,.0f}"])
    columns = ["planner", "weights", "onnx\n1", "onnx\n1,024", "torch\n1", "torch\n1,024"]
    print_table(
        "Microseconds a call (median, one thread), and onnx at 1 over DAQP",
        [*columns, "times daqp"],
        rows,
    )
    return found


def _steps(config: Config) -> dict[str, float]:
    peer = _rate(gym.make_vec(TASK, 64, vectorization_mode="sync"), config.seconds)
    found = {"SyncVectorEnv, 64 rows": peer}
    for count in config.rows:
        env = gym.make_vec(TASK, count, vectorization_mode="vector_entry_point")
        found[f"native, {count:,} rows"] = _rate(env, config.seconds)
    print_table(
        f"{TASK}: steps a second, one thread",
        ["task", "steps/s", "times SyncVectorEnv"],
        [[name, f"{rate:,.0f}", f"{rate / peer:,.1f}"] for name, rate in found.items()],
    )
    return found


def _rate(env: Any, seconds: float) -> float:
    """Return the steps of all rows together a second, automatic resets included."""
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-4, 4, (32, env.num_envs, 1)).astype(np.float32)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        env.step(actions[count % 32])
        count += 1
    rate: float = count * env.num_envs / (time.perf_counter() - start)
    env.close()
    return rate


main = study(Config, run)

if __name__ == "__main__":
    main()
