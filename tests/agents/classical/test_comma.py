"""Controller files against comma's rollout, written out in ``official_loop.py``.

The truth is each controller alone in one fresh process, its routes in order.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerlab.agents.classical.comma import controller_factory
from steerlab.envs.tinyphysics.rollout import evaluate
from steerlab.surrogates.segments.data import Segments, load_segments, write_segment
from steerlab.surrogates.segments.synthetic import synthetic_segment

LOOP = Path(__file__).with_name("official_loop.py")
UPDATE = "def update(self, target_lataccel, current_lataccel, state, future_plan):"

#: Controllers by name: what stands before the class, in ``__init__``, and in ``update`` before it
#: returns ``0.3 * e + more``.
CONTROLLERS = {
    "plain": ("", "pass", "more = 0"),
    "python_seeded": ("import random", "random.seed(7)", "more = random.gauss(0, 0.05)"),
    "python_from": (
        "from random import seed, uniform",
        "seed(3)",
        "more = uniform(-0.1, 0.1)",
    ),
    "python_seeded_once": ("import random\nrandom.seed(7)", "pass", "more = random.gauss(0, 0.05)"),
    "python_seeded_late": (
        "import random",
        "self.n = 0",
        "self.n += 1\n    if self.n == 90: random.seed(4)\n"
        "    more = random.gauss(0, 0.05) if self.n > 90 else 0",
    ),
    "numpy_noise": ("import numpy as np", "pass", "more = 0.05 * np.random.normal()"),
    "numpy_seeded_for_init": (
        "import numpy as np",
        "np.random.seed(5); self.gain = np.random.rand()",
        "more = 0.1 * self.gain",
    ),
    "numpy_unseeded_in_init": (
        "import numpy as np\nnp.random.seed(5)",
        "self.gain = np.random.rand()",
        "more = 0.1 * self.gain",
    ),
    "own_generator": (
        "import numpy as np",
        "self.rng = np.random.default_rng(1)",
        "more = 0.05 * self.rng.standard_normal()",
    ),
    "module_generator": (
        "import numpy as np\nrng = np.random.default_rng(1)",
        "pass",
        "more = 0.05 * rng.standard_normal()",
    ),
    "python_instance": (
        "import random\ndice = random.Random(2)",
        "pass",
        "more = 0.05 * dice.random()",
    ),
    "bound_method": (
        "import random\nroll = random.Random(2).random",
        "pass",
        "more = 0.05 * roll()",
    ),
    "class_number": (
        "",
        "pass",
        "type(self).calls = getattr(type(self), 'calls', 0) + 1\n"
        "    more = 0.001 * (type(self).calls % 7)",
    ),
    "class_list": ("past = []", "pass", "past.append(e)\n    more = 0.1 * sum(past[-5:])"),
    "class_first": (
        "seen = set()",
        "self.gain = 0.1 if not seen else 0.2\n    seen.add(1)",
        "more = self.gain",
    ),
    "module_global": (
        "total = 0.0",
        "pass",
        "global total\n    total = 0.9 * total + e\n    more = 0.1 * total",
    ),
    "module_array": (
        "import numpy as np\npast = np.zeros(5)",
        "pass",
        "past[:] = np.roll(past, 1); past[0] = e\n    more = 0.1 * past.sum()",
    ),
    "function_attribute": (
        "def tick(): tick.n = getattr(tick, 'n', 0) + 1; return tick.n",
        "pass",
        "more = 0.001 * (tick() % 5)",
    ),
    "closure": (
        "def make():\n  n = [0]\n  def tick():\n    n[0] += 1\n    return n[0]\n  return tick\ntick = make()",
        "pass",
        "more = 0.001 * (tick() % 5)",
    ),
    "counter": (
        "import itertools\nticks = itertools.count()",
        "pass",
        "more = 0.001 * (next(ticks) % 5)",
    ),
    "generator": (
        "def steps():\n  n = 0\n  while True:\n    n += 1\n    yield n\nticks = steps()",
        "pass",
        "more = 0.001 * (next(ticks) % 5)",
    ),
    "memory": (
        "import functools\nbox = [0]\n@functools.lru_cache\ndef gain(t): box[0] += 1; return box[0]",
        "pass",
        "more = 0.001 * (gain(round(e, 1)) % 5)",
    ),
    "other_object": (
        "class Store: pass",
        "pass",
        "Store.last = 0.5 * getattr(Store, 'last', 0.0) + e\n    more = 0.1 * Store.last",
    ),
    "helper": ("from . import common", "pass", "more = common.shared(e)"),
    "helper_later": ("", "pass", "from controllers import common\n    more = common.shared(e)"),
    "lazy": (
        "import importlib",
        "self.inner = None",
        "if self.inner is None: self.inner = importlib.import_module('controllers.plain').Controller()\n"
        "    more = self.inner.update(target_lataccel, current_lataccel, state, future_plan)",
    ),
    "package_name": ("from . import GAIN", "pass", "more = GAIN * e"),
    "root_module": ("", "import tools; self.gain = tools.gain", "more = self.gain * e"),
    "warmup_none": (
        "",
        "self.n = 0",
        "self.n += 1\n    if self.n <= 80: return None\n    more = 0",
    ),
    "infinite": (
        "",
        "self.n = 0",
        "self.n += 1\n    more = float('inf') if self.n % 9 == 0 else 0",
    ),
    "logger": (
        "import logging\nlog = logging.getLogger(__name__)",
        "pass",
        "log.debug('step')\n    more = 0",
    ),
    "torch_seeded": (
        "import torch",
        "torch.manual_seed(7)",
        "more = 0.05 * torch.randn(()).item()",
    ),
    "torch_seeded_once": (
        "import torch\ntorch.manual_seed(7)",
        "pass",
        "more = 0.05 * torch.randn(()).item()",
    ),
    "torch_later": (
        "",
        "import torch; torch.manual_seed(7)",
        "import torch\n    more = 0.05 * torch.randn(()).item()",
    ),
    "torch_network": (
        "import torch\nnet = torch.nn.Linear(2, 1)\ntorch.nn.init.constant_(net.weight, 0.1)\n"
        "torch.nn.init.zeros_(net.bias)",
        "pass",
        "with torch.no_grad(): more = net(torch.tensor([e, e], dtype=torch.float32)).item()",
    ),
}
#: Those whose routes cannot run side by side.
IN_ORDER = {
    "python_seeded_once", "python_seeded_late", "numpy_unseeded_in_init", "module_generator",
    "python_instance", "bound_method", "class_number", "class_list", "class_first", "module_global",
    "module_array", "function_attribute", "closure", "counter", "generator", "memory",
    "other_object", "helper", "helper_later", "torch_seeded_once",
}  # fmt: skip
FACTORY = "def Controller():\n  return Inner()\n"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    folder = root / "controllers"
    folder.mkdir()
    (folder / "__init__.py").write_text("class BaseController:\n  pass\nGAIN = 0.05\n")
    (folder / "common.py").write_text(
        "last = 0.0\ndef shared(e):\n  global last\n  last = 0.9 * last + e\n  return 0.1 * last\n"
    )
    (root / "tools.py").write_text("gain = 0.07\n")
    for name, (before, init, body) in CONTROLLERS.items():
        (folder / f"{name}.py").write_text(
            f"from . import BaseController\n{before}\n\nclass Controller(BaseController):\n"
            f"  def __init__(self):\n    {init}\n  {UPDATE}\n    e = target_lataccel - current_lataccel\n"
            f"    {body}\n    return 0.3 * e + more\n"
        )
    plain = (folder / "plain.py").read_text()
    (folder / "function.py").write_text(plain.replace("class Controller", "class Inner") + FACTORY)
    return root


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four routes of lengths that differ."""
    folder = tmp_path_factory.mktemp("routes")
    for i, rows in enumerate((600, 585, 549, 602)):
        table = synthetic_segment(np.random.default_rng(i), rows)
        write_segment(folder / f"{i:05d}.csv", table)
    return folder


@pytest.fixture(scope="module")
def segments(routes: Path) -> Segments:
    return load_segments(routes)


def official(checkout: Path, name: str, routes: Path, plant: str = "analytic") -> list[float]:
    command = [sys.executable, str(LOOP), str(checkout), name, str(routes), plant]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    costs: list[float] = json.loads(result.stdout)
    return costs


def ours(
    checkout: Path, name: str, segments: Segments, **how: Any
) -> tuple[list[float], list[str]]:
    notes: list[str] = []
    factory = controller_factory(str(checkout / f"controllers/{name}.py"))
    result = evaluate(factory, segments, "analytic", note=notes.append, **how)
    return result.costs.total_cost.tolist(), notes


@pytest.mark.parametrize("name", [*CONTROLLERS, "function"])
def test_costs_are_those_of_the_official_loop(
    checkout: Path, routes: Path, segments: Segments, name: str
) -> None:
    costs, notes = ours(checkout, name, segments)
    assert costs == official(checkout, name, routes)
    assert bool(notes) == (name in IN_ORDER)
    if notes:
        assert f"{name}.py" in notes[0]
