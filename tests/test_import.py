"""Importing steerlab changes nothing for the program that imports it."""

import json
import pkgutil
import subprocess
import sys

import pytest

import steerlab

# Run in a fresh process: what is global there before and after all modules are imported.
CODE = """
import importlib, json, locale, logging, os, random, signal, sys, warnings
import matplotlib, numpy, torch
import sb3_contrib  # draws from Python's generator when it is imported
matplotlib.use("svg")  # as a notebook or a window chooses its own
matplotlib.rcParams["lines.linewidth"] = 3.5
random.seed(1); numpy.random.seed(2); torch.manual_seed(3); torch.set_num_threads(1)
numpy.set_printoptions(precision=3)
numpy.seterr(under="warn")

def state():
    return {
        "backend": matplotlib.get_backend(),
        "settings of matplotlib": {k: str(v) for k, v in dict.items(matplotlib.rcParams)},
        "random": hash(random.getstate()),
        "numpy.random": str(numpy.random.get_state()),
        "torch random": torch.get_rng_state().tolist(),
        "torch": [torch.get_num_threads(), str(torch.get_default_dtype()), torch.is_grad_enabled()],
        "numpy": [str(numpy.get_printoptions()), str(numpy.geterr())],
        "folder": os.getcwd(),
        "path": sys.path,
        "hooks": [str(sys.excepthook), str(sys.displayhook)],
        "signals": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)],
        "locale": locale.setlocale(locale.LC_ALL),
        "logging": [logging.root.level, len(logging.root.handlers)],
    }

before = state()
failed = {}
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed[name] = str(error)
after = state()
print(json.dumps({"changed": [k for k in before if before[k] != after[k]], "failed": failed}))
"""


def modules() -> list[str]:
    """Return the names of all modules of the package."""
    found = pkgutil.walk_packages(steerlab.__path__, "steerlab.")
    return [module.name for module in found if not module.name.endswith("__main__")]


@pytest.mark.slow
def test_no_module_changes_global_state() -> None:
    names = modules()
    assert len(names) > 100
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(names)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["changed"] == []
    # What is missing are extras, never a module of ours.
    assert not [error for error in report["failed"].values() if "steerlab." in error]
