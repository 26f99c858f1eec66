"""Runs the parser of a checkout on vectors, in a process of its own; started by ``smoke`` only.

It imports nothing of steerlab, so that it runs in the checkout's own environment, which may have other
versions of everything, and is started with ``python -P``.

    ROOT MODULE INPUT OUTPUT

reads ``flat/<network>`` and ``slice/<network>/<head>`` from the npz file INPUT, cuts the vectors as
modeld does, lets the class Parser of MODULE read them, and writes its arrays to OUTPUT.
"""

import importlib
import os
import sys
import types
from typing import Any

import numpy as np


def parser_of(root: str, module: str) -> Any:
    """Return the checkout's parser. Its packages are found in both layouts, links or none."""
    package = types.ModuleType("openpilot")
    package.__path__ = [os.path.join(root, "openpilot"), root]
    sys.modules["openpilot"] = package
    sys.path[:0] = [root, os.path.join(root, "tinygrad_repo")]
    return importlib.import_module(module).Parser()


def main() -> None:
    """Do what the arguments say."""
    root, module, source, target = sys.argv[1:]
    with np.load(source, allow_pickle=False) as file:
        arrays = dict(file)
    cut: dict[str, dict[str, np.ndarray]] = {}
    for key, place in arrays.items():
        kind, *names = key.split("/")
        if kind == "slice":
            network, head = names
            flat = arrays[f"flat/{network}"]
            cut.setdefault(network, {})[head] = flat[None, slice(*map(int, place))].copy()
    parser = parser_of(root, module)
    found = {}
    if hasattr(parser, "parse_vision_outputs") and "driving_supercombo" not in cut:
        for network, outputs in cut.items():
            kind = "vision" if network == "driving_vision" else "policy"
            found.update(getattr(parser, f"parse_{kind}_outputs")(outputs))
    else:
        found.update(parser.parse_outputs({k: v for part in cut.values() for k, v in part.items()}))
    np.savez(target, **found)


if __name__ == "__main__":
    main()
