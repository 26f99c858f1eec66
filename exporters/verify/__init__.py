"""Checks of a model file against a contract, each with what was found and how to mend it.

By default nothing of a foreign file is executed: the ONNX graph is read, metadata go through a
restricted loader, a tinygrad pickle is only looked at from outside.
"""

from steerlab.exporters.verify.base import FAIL, NOTE, PASS, SKIP, Check, Options
from steerlab.exporters.verify.run import check_names, failed, verify_export

__all__ = [
    "FAIL",
    "NOTE",
    "PASS",
    "SKIP",
    "Check",
    "Options",
    "check_names",
    "failed",
    "verify_export",
]
