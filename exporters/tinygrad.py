"""ONNX files as the pickled TinyJit that openpilot's modeld loads."""

import json
from pathlib import Path
from typing import Any

from steerlab.files import atomic_path
from steerlab.openpilot.tinygrad import ask


def compile_tinygrad(
    onnx_path: str | Path,
    path: str | Path,
    *,
    device: str = "CPU",
    tinygrad_path: str | Path | None = None,
) -> dict[str, Any]:
    """Write the pickled TinyJit of an ONNX file, captured as modeld's build does.

    Every input is a keyword argument: images as tensors on the device, the rest as float32 tensors
    on device NPY; the first output is cast to float32. Beside the pickle, ``<stem>.json`` records
    the version of tinygrad and the device, which whoever loads it must have.

    Args:
        onnx_path: The graph, with static shapes.
        path: Where the pickle goes.
        device: tinygrad's device. LLVM, which newer versions call CPU, is translated for them.
        tinygrad_path: Folder of the target's tinygrad; None takes the installed one.

    Returns:
        ``tinygrad`` (version), ``device`` and ``inputs`` (name -> type and device).

    Raises:
        InputError: clang is missing, or tinygrad cannot compile the graph.
    """
    with atomic_path(path) as temporary:
        arguments = ["capture", str(onnx_path), str(temporary)]
        info = ask(arguments, device, tinygrad_path)
    if tinygrad_path:
        info["tinygrad"] = f"of {Path(tinygrad_path).resolve().name}"
    with atomic_path(Path(path).with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(info, indent=1), encoding="utf-8")
    return info
