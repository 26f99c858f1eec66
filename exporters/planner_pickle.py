"""Planning networks as pickled TinyJits, for programs that run tinygrad."""

import shutil
import tempfile
from pathlib import Path

import numpy as np

from steerlab.agents.trc.model import Planner
from steerlab.errors import InputError
from steerlab.exporters.onnx import relative_difference
from steerlab.exporters.planner import export_planner
from steerlab.exporters.tinygrad import compile_tinygrad
from steerlab.files import transaction
from steerlab.openpilot.tinygrad import TinygradEngine

#: Largest difference between torch and tinygrad that is accepted, as for ONNX.
TOLERANCE = 1e-3


def pickle_planner(
    model: Planner,
    path: str | Path,
    *,
    opset: int = 18,
    tinygrad_path: str | Path | None = None,
) -> float:
    """Write a planner as a pickled TinyJit for one plan a call, checked against torch.

    Arguments and result are those of :func:`~steerlab.exporters.planner.export_planner` with
    ``rows=1``. The pickle runs before it appears, in a process of its own. Beside it,
    ``<stem>.json`` says which tinygrad and device it needs.

    Args:
        model: The planner.
        path: The pickle.
        opset: Operator set of the graph that tinygrad compiles.
        tinygrad_path: Folder of the target's tinygrad; None takes the installed one.

    Returns:
        The largest difference to torch that was found.

    Raises:
        InputError: The planner cannot be exported, clang is missing, or tinygrad fails or computes
            something else.
    """
    path = Path(path)
    initial, targets = model.problem.sample(np.random.default_rng(0), 4)
    left = np.linspace(1, model.problem.steps, 4).round()
    feed = {"initial_state": initial, "target_state": targets, "remaining": left}
    with tempfile.TemporaryDirectory() as folder:
        graph, made = Path(folder, "planner.onnx"), Path(folder, "planner.pkl")
        export_planner(model, graph, rows=1, opset=opset)
        compile_tinygrad(graph, made, tinygrad_path=tinygrad_path)
        # It was made a moment ago, so loading it is safe.
        with TinygradEngine(made, trust_pickle=True, tinygrad_path=tinygrad_path) as engine:
            found = engine.run(feed)["outputs"]
        difference = relative_difference(found, model.plan(initial, targets, left))
        if not difference <= TOLERANCE:
            raise InputError(
                f"{str(path)!r}: tinygrad and torch differ by {difference:.3g}, more than "
                f"{TOLERANCE:g}; take another tinygrad_path= or use the ONNX file"
            )
        with transaction(path.parent) as files:
            for file in (made, made.with_suffix(".json")):
                shutil.copyfile(file, files.path(path.with_suffix(file.suffix).name))
    return difference
