"""What the clean process of :mod:`tests.clean_fork` imports, and makes small."""

import importlib

import torch
import torch._dynamo  # the first optimiser imports it, for over a second

import tests.fuzz.readers  # noqa: F401 - for the import
from tests.reliability.studies import CASES, make_small

torch.set_num_threads(1)
for case in CASES.values():
    importlib.import_module(f"steerlab.experiments.{case.study}")
make_small(setattr)
