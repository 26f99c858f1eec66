"""All checks in their order, the closed loop among them."""

from collections.abc import Callable
from pathlib import Path

import onnx

from steerlab.errors import InputError
from steerlab.exporters.verify import file, graph, meaning, runtime
from steerlab.exporters.verify.base import (
    FAIL,
    NOTE,
    PASS,
    SKIP,
    Check,
    Fail,
    Note,
    Options,
    Skip,
    Subject,
)
from steerlab.openpilot.contracts import Contract
from steerlab.openpilot.engines import Network
from steerlab.openpilot.onnx_file import (
    check_file,
    external_files,
    graph_inputs,
    read_onnx,
    static_shape,
)
from steerlab.openpilot.tinygrad import check_tinygrad_path

CLOSED_LOOP = 0.1  # relative difference of float16's figures in the closed loop


def verify_export(
    path: str | Path,
    contract: Contract,
    model_name: str = "",
    options: Options | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> list[Check]:
    """Return the result of every check.

    Args:
        path: The ONNX file.
        contract: What it should fulfil.
        model_name: Network of the contract; '' goes by the file name, else by the inputs.
        options: See :class:`Options`.
        progress: Called with the name of each check before it runs.

    Raises:
        InputError: A file that is named is absent, the ONNX file is none, or the network's name is
            unknown.
    """
    path, options = Path(path), options or Options()
    bare = read_onnx(path, weights=False)
    proto = read_onnx(path)
    for what in ("probe", "metadata", "pickle"):
        if chosen := getattr(options, what):
            check_file(chosen, f"file {what}=")
    if options.tinygrad_path:
        check_tinygrad_path(options.tinygrad_path)
    shapes = {n: static_shape(i) for n, i in graph_inputs(proto).items()}
    model = contract.model(model_name or _guess(path, contract, proto), shapes=shapes)
    subject = Subject(path, contract, model, options, proto, external_files(bare))
    results = []
    for title, check in _CHECKS.items():
        progress(title)
        results.append(_result(title, check, subject))
    return results


def _result(title: str, check: Callable[[Subject], str], subject: Subject) -> Check:
    try:
        return Check(title, PASS, check(subject))
    except Skip as skip:
        return Check(title, SKIP, str(skip))
    except Note as note:
        return Check(title, NOTE, str(note))
    except Fail as fail:
        return Check(title, FAIL, str(fail), fail.remedy)
    except InputError as error:  # messages of the readers, remedy included
        found, _, remedy = str(error).rpartition("; ")
        return Check(title, FAIL, found or str(error), remedy if found else "")


def check_names() -> tuple[str, ...]:
    """Return the names of all checks, in their order."""
    return tuple(_CHECKS)


def failed(results: list[Check]) -> list[Check]:
    """Return the checks that failed."""
    return [r for r in results if r.status == FAIL]


def _guess(path: Path, contract: Contract, proto: onnx.ModelProto) -> str:
    for name in contract.model_names:
        if path.stem.startswith(name):
            return name
    inputs = set(graph_inputs(proto))
    return max(contract.model_names, key=lambda n: len(inputs & set(contract.model(n).inputs)))


def closed_loop(subject: Subject) -> str:
    """In held-out episodes the graph drives in float16 as it does in float32."""
    subject.ran()
    drive, slices = subject.options.drive, subject.heads()
    if drive is None:
        raise Skip("no episodes to drive")
    if "plan" not in slices:
        raise Skip("this network has no plan")
    assert subject.engine is not None
    shapes = {n: static_shape(i) for n, i in subject.inputs.items()}
    full = drive(Network(subject.engine, slices, shapes))
    half = drive(Network(runtime.half_engine(subject), slices, shapes))
    apart = {
        n: abs(half[n] - v) / max(abs(v), 1e-9) if half[n] != v else 0.0 for n, v in full.items()
    }
    text = ", ".join(f"{n} {v:.4g} (float16 {half[n]:.4g})" for n, v in full.items())
    worst = max(apart, key=lambda n: apart[n])
    if not apart[worst] <= CLOSED_LOOP:
        raise Fail(
            f"{text}: {worst} differs by {apart[worst]:.0%}",
            "keep float32 where the consumer allows it, or train with smaller weights",
        )
    return text


_CHECKS: dict[str, Callable[[Subject], str]] = {
    "one file": file.one_file,
    "graph": graph.checker,
    "input names": graph.input_names,
    "input shapes": graph.input_shapes,
    "output": graph.outputs,
    "operators": graph.operators,
    "slices in the ONNX file": file.properties,
    "metadata file": file.metadata,
    "slices": file.slices,
    "heads": graph.heads,
    "runs": runtime.runs,
    "torch parity": runtime.torch_parity,
    "meaning": meaning.meaning,
    "plan": meaning.plan_physics,
    "steering": meaning.steering,
    "images": meaning.images,
    "float16": runtime.half,
    "tinygrad": runtime.tinygrad,
    "tinygrad pickle": runtime.pickle,
    "closed loop": closed_loop,
    "latency": runtime.latency,
    "road": file.road,
}
