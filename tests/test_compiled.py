"""numba is an accelerator: whatever is wrong with it or its cache costs time and stops nothing."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import steerlab
from steerlab import compiled as module
from steerlab.compiled import compiled, has_numba

ROOT = Path(steerlab.__file__).parent.parent


@pytest.fixture
def nothing_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_warned", False)


def cube(x: float) -> float:
    return x**3


@pytest.mark.usefixtures("nothing_warned")
class TestCache:
    def test_kept_where_it_can_be(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        numba = pytest.importorskip("numba")
        monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
        for hits in (0, 1):  # the second function finds what the first one left
            function = compiled(nogil=True)(cube)
            assert function(3.0) == 27.0
            assert sum(function.stats.cache_hits.values()) == hits
        assert list(tmp_path.rglob("*.nbi"))

    def test_no_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        caching = pytest.importorskip("numba.core.caching")
        monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
        with pytest.warns(RuntimeWarning, match="NUMBA_CACHE_DIR") as seen:
            functions = [compiled()(cube) for _ in range(2)]
        assert len(seen) == 1
        assert [function(2.0) for function in functions] == [8.0, 8.0]

    def test_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        numba = pytest.importorskip("numba")
        from numba.core.caching import IndexDataCacheFile

        def fail(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
        monkeypatch.setattr(IndexDataCacheFile, "save", fail)
        with pytest.warns(RuntimeWarning, match="No space left"):
            assert compiled()(cube)(2.0) == 8.0

    def test_damaged_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        numba = pytest.importorskip("numba")
        monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
        compiled()(cube)(2.0)
        for file in tmp_path.rglob("*.nb?"):
            file.write_bytes(file.read_bytes()[:40])
        with pytest.warns(RuntimeWarning, match="cache cannot be used"):
            assert compiled()(cube)(2.0) == 8.0


@pytest.mark.slow
def test_task_runs_without_any_folder_to_write_to(tmp_path: Path) -> None:
    """As in a container: the package and the home folder cannot be written."""
    pytest.importorskip("numba")
    code = """
import numba.core.caching as caching, warnings
def refuse(*_): raise PermissionError(13, "read-only")
caching._CacheLocator.ensure_cache_path = refuse  # root may write anywhere, so chmod proves nothing
warnings.simplefilter("ignore")
import gymnasium as gym, numpy as np, steerlab.envs
for backend in ("auto", "numba"):
    env = gym.make_vec("KinematicDriver-v0", num_envs=2, backend=backend)
    env.reset(seed=0)
    env.step(np.zeros((2, 2), np.float32))
print(type(env.unwrapped.simulator).__name__)
"""
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    environment |= {"HOME": str(tmp_path / "none"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["CompiledSimulator"], done.stderr


def test_numba_that_does_not_import_gives_way_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when numba refuses a numpy that is newer than itself."""
    from steerlab.envs.kinematic_driver.env import make_simulator
    from steerlab.envs.kinematic_driver.reward import Reward
    from steerlab.envs.kinematic_driver.simulator import Simulator

    class Refusing:
        def find_spec(self, name: str, *_: Any) -> Any:
            if name == "numba":
                raise ImportError("Numba needs NumPy 2.4 or less")

    monkeypatch.delitem(sys.modules, "numba", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    has_numba.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match=r"Numba needs NumPy 2\.4"):
            assert not has_numba()
        assert type(make_simulator("auto", 2, 100, Reward(), 1)) is Simulator
    finally:
        has_numba.cache_clear()


def test_numba_is_found_where_it_is_installed() -> None:
    has_numba.cache_clear()
    assert has_numba() == (importlib.util.find_spec("numba") is not None)
