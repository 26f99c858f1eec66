"""Controller files against comma's rollout, written out in ``official_loop.py``.

The truth is each controller alone in one fresh process, its routes in order.
"""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerlab.agents.classical.comma import CommaController, controller_factory
from steerlab.envs.tinyphysics.rollout import evaluate
from steerlab.errors import InputError
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
        (
            "self.n += 1\n    if self.n == 90: random.seed(4)\n"
            "    more = random.gauss(0, 0.05) if self.n > 90 else 0"
        ),
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
        (
            "type(self).calls = getattr(type(self), 'calls', 0) + 1\n"
            "    more = 0.001 * (type(self).calls % 7)"
        ),
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
        (
            "if self.inner is None: self.inner = importlib.import_module('controllers.plain').Controller()\n"
            "    more = self.inner.update(target_lataccel, current_lataccel, state, future_plan)"
        ),
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
        (
            "import torch\nnet = torch.nn.Linear(2, 1)\ntorch.nn.init.constant_(net.weight, 0.1)\n"
            "torch.nn.init.zeros_(net.bias)"
        ),
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


#: The others are slow: each needs two or three processes of its own.
FAST = {"plain", "python_seeded", "numpy_noise", "class_list", "lazy", "infinite"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name in [*CONTROLLERS, "function"]
    ],
)
def test_costs_are_those_of_the_official_loop(
    checkout: Path, routes: Path, segments: Segments, name: str
) -> None:
    costs, notes = ours(checkout, name, segments)
    assert costs == official(checkout, name, routes)
    assert bool(notes) == (name in IN_ORDER)
    if notes:
        assert f"{name}.py" in notes[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["plain", "python_seeded", "numpy_noise", "class_list", "torch_seeded"]
)
@pytest.mark.parametrize(("processes", "batch_size"), [(1, 1), (1, 3), (2, 1), (3, 32)])
def test_processes_and_batch_size_do_not_matter(
    checkout: Path, routes: Path, segments: Segments, name: str, processes: int, batch_size: int
) -> None:
    costs, _ = ours(checkout, name, segments, processes=processes, batch_size=batch_size)
    assert costs == official(checkout, name, routes)


@pytest.mark.slow
def test_real_plant(checkout: Path, routes: Path, segments: Segments, shared: Path) -> None:
    plant = shared / "tinyphysics/tinyphysics.onnx"
    factory = controller_factory(str(checkout / "controllers/numpy_noise.py"))
    result = evaluate(factory, segments, plant)
    assert result.costs.total_cost.tolist() == official(checkout, "numpy_noise", routes, str(plant))


def test_two_checkouts_with_the_same_names(tmp_path: Path, segments: Segments) -> None:
    """The second controller's own modules, at load and later, not those of the first."""
    found = []
    for gain in ("0.1", "0.3"):
        folder = tmp_path / gain / "controllers"
        folder.mkdir(parents=True)
        (tmp_path / gain / "tuning.py").write_text(f"GAIN = {gain}\n")
        (folder / "law.py").write_text("from tuning import GAIN\ndef law(e):\n  return GAIN * e\n")
        (folder / "mine.py").write_text(
            f"from . import BaseController\nclass Controller(BaseController):\n  {UPDATE}\n"
            "    from controllers.law import law\n"
            "    return law(target_lataccel - current_lataccel)\n"
        )
        factory = controller_factory(str(folder / "mine.py"))
        found.append(evaluate(factory, segments[[2]], "analytic").steer[0, 100])
    assert found[1] == pytest.approx(3 * found[0], rel=1e-12)
    assert found[0] != 0
    assert not {"tuning", "controllers", "controllers.law"} & set(sys.modules)


def test_nothing_global_changes_here(checkout: Path, segments: Segments) -> None:
    python, legacy = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    path, modules = list(sys.path), set(sys.modules)
    ours(checkout, "python_seeded", segments[[2]])
    ours(checkout, "numpy_noise", segments[[2]])
    assert random.getstate() == python
    assert np.random.get_state()[1].tolist() == legacy  # type: ignore[index]  # noqa: NPY002
    assert sys.path == path
    assert set(sys.modules) == modules


def test_the_tail_is_driven(tmp_path: Path, segments: Segments) -> None:
    """A file of 549 rows shows a plan of 49 steps up to step 499, of 48 at 500, of none at 548."""
    path = tmp_path / "past_end.py"
    path.write_text(
        f"class Controller:\n  {UPDATE}\n    return 0.3 * (future_plan.lataccel[39] - current_lataccel)\n"
    )
    with pytest.raises(InputError, match=r"line 3: update\(\) failed at step 509 with IndexError"):
        evaluate(controller_factory(str(path)), segments[[2]], "analytic")
    evaluate(controller_factory(str(path)), segments[[2]], "analytic", tail=False)
    path.write_text(
        f"class Controller:\n  lengths = []\n  {UPDATE}\n    n = len(future_plan.v_ego)\n"
        "    if n != min(49, 549 - 1 - 20 - self.n): raise ValueError(n)\n"
        "    self.n += 1\n    return 0.1 * n\n  n = 0\n"
    )
    evaluate(controller_factory(str(path)), segments[[2]], "analytic")


OFFICIAL_NAMES = """
from tinyphysics import (ACC_G, CONTEXT_LENGTH, CONTROL_START_IDX, COST_END_IDX, DEL_T, FPS,
    FUTURE_PLAN_STEPS, LATACCEL_RANGE, LAT_ACCEL_COST_MULTIPLIER, MAX_ACC_DELTA, STEER_RANGE,
    VOCAB_SIZE, BaseController, FuturePlan, LataccelTokenizer, State, TinyPhysicsModel,
    TinyPhysicsSimulator, get_available_controllers, run_rollout)

class Controller(BaseController):
  def __init__(self):
    self.tokens = LataccelTokenizer()
  def update(self, target_lataccel, current_lataccel, state, future_plan):
    import tinyphysics
    assert isinstance(state, tinyphysics.State) and isinstance(future_plan, FuturePlan)
    return 0.3 * (self.tokens.decode(self.tokens.encode(target_lataccel)) - current_lataccel)
"""


def test_names_of_the_official_script(tmp_path: Path, segments: Segments) -> None:
    (tmp_path / "controllers").mkdir()
    path = tmp_path / "controllers/mine.py"
    path.write_text(OFFICIAL_NAMES)
    plain = evaluate(controller_factory(str(path)), segments[[2]], "analytic")
    assert np.isfinite(plain.costs.total_cost).all()
    (tmp_path / "tinyphysics.py").write_text("import not_installed_here\n")
    again = evaluate(controller_factory(str(path)), segments[[2]], "analytic")
    np.testing.assert_array_equal(plain.lataccel, again.lataccel)
    path.write_text(
        "from tinyphysics import mine\nclass Controller:\n  def update(s, *a, **k):\n    return mine\n"
    )
    (tmp_path / "tinyphysics.py").write_text("mine = 0.25\n")
    own = evaluate(controller_factory(str(path)), segments[[2]], "analytic")
    assert (own.steer[0, 100:] == 0.25).all()
    assert "tinyphysics" not in sys.modules


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (f"class Controller:\n  {UPDATE}\n    return None", "returned None at step 100"),
        (f"class Controller:\n  {UPDATE}\n    return 'left'", "returned left at step 100"),
        (f"class Controller:\n  {UPDATE}\n    import os; os._exit(3)", r"exit code 3"),
        (f"class Controller:\n  {UPDATE}\n    import sys; sys.exit(3)", "step 20 with SystemExit"),
        ("Controller = 3", "no class or function named Controller"),
        ("class Controller: pass", "has no attribute 'update'"),
    ],
)
def test_mistakes_name_the_file(
    tmp_path: Path, segments: Segments, code: str, message: str
) -> None:
    path = tmp_path / "bad.py"
    path.write_text(code)
    with pytest.raises(InputError, match=f"bad.py.*{message}"):
        evaluate(controller_factory(str(path)), segments[[2]], "analytic")


def test_a_process_ends_with_its_controller(checkout: Path) -> None:
    controller = CommaController(checkout / "controllers/plain.py")
    process = controller._process._process
    assert process.poll() is None
    del controller
    assert process.wait(5) is not None
