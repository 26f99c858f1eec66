"""The doctor names each of these prepared defects, with what mends it."""

import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steerlab import doctor as checks
from steerlab.doctor import NOTE, OK, WRONG
from steerlab.doctor.machine import Gpu, fitting_build
from steerlab.doctor.packages import requirements
from steerlab.experiments import doctor

Patch = pytest.MonkeyPatch
Options = dict[str, Any]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: Patch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CARLA_ROOT", raising=False)
    monkeypatch.setenv("STEERLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "300")
    return tmp_path


def _package(name: str, version: str | None) -> Callable[[Path, Patch], Options]:
    """Let a package be there in another version, or not at all."""

    def prepare(folder: Path, patch: Patch) -> Options:
        known = metadata.version

        def asked(wanted: str) -> str:
            if wanted != name:
                return known(wanted)
            if version is None:
                raise metadata.PackageNotFoundError(name)
            return version

        patch.setattr(metadata, "version", asked)
        return {}

    return prepare


def _old_python(folder: Path, patch: Patch) -> Options:
    finding = checks.python_version((3, 9, 18))
    patch.setattr(checks, "python_version", lambda: finding)
    return {}


def _extra(folder: Path, patch: Patch) -> Options:
    _package("numba", None)(folder, patch)
    return {"needs": ("camera",)}


def _program(folder: Path, patch: Patch, name: str, prints: str) -> None:
    program = folder / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\necho '{prints}'\n")
    program.chmod(0o755)
    patch.setenv("PATH", str(program.parent), prepend=":")


def _gpu(folder: Path, patch: Patch) -> Options:
    import torch

    _program(folder, patch, "nvidia-smi", "NVIDIA GeForce RTX 5060, 12.0, 570.86.10, 8151 MiB")
    patch.setattr(torch.version, "cuda", None)
    return {}


def _gpu_too_new(folder: Path, patch: Patch) -> Options:
    import torch

    _program(folder, patch, "nvidia-smi", "NVIDIA GeForce RTX 5060, 12.0, 570.86.10, 8151 MiB")
    patch.setattr(torch.version, "cuda", "12.4")
    patch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_50", "sm_80", "sm_86", "sm_90"])
    return {}


def _no_clang(folder: Path, patch: Patch) -> Options:
    patch.setenv("PATH", str(folder))
    return {"needs": ("tinygrad",)}


def _empty_root(folder: Path, patch: Patch) -> Options:
    patch.setenv("CARLA_ROOT", str(folder))
    return {}


def _other_server(folder: Path, patch: Patch) -> Options:
    root = folder / "CARLA"
    root.mkdir()
    (root / "CarlaUE4.sh").touch()
    (root / "VERSION").write_text("0.9.15\n")
    patch.setenv("CARLA_ROOT", str(root))
    _package("carla", "0.9.16")(folder, patch)
    return {}


def _full_disk(folder: Path, patch: Patch) -> Options:
    usage = SimpleNamespace(free=200e6)
    patch.setattr(shutil, "disk_usage", lambda path: usage)
    return {}


def _no_folder(folder: Path, patch: Patch) -> Options:
    (folder / "file").touch()  # in the way; root may write anywhere
    return {"output_folder": str(folder / "file" / "results")}


def _cache(folder: Path, patch: Patch) -> Options:
    (folder / "file").touch()
    patch.setenv("STEERLAB_CACHE", str(folder / "file" / "cache"))
    return {}


def _damaged(folder: Path, patch: Patch) -> Options:
    pytest.importorskip("zarr")
    (folder / "shards" / "urban_a_1.zarr").mkdir(parents=True)
    return {"data": ("shards",)}


linux = pytest.mark.skipif(sys.platform != "linux", reason="made with programs of Linux")


@linux
@pytest.mark.parametrize(
    ("defect", "name", "remedy"),
    [
        (_old_python, "Python", "uv venv -p 3.12"),
        (_package("numpy", "1.20.0"), "package numpy", 'pip install "numpy>=2.0"'),
        (_package("hydra-core", None), "package hydra-core", 'pip install "hydra-core>=1.3.2"'),
        (_extra, "extra camera", 'pip install "steerlab[camera]"'),
        (_gpu, "GPU", "--index-url https://download.pytorch.org/whl/cu128"),
        (_gpu_too_new, "GPU", "--index-url https://download.pytorch.org/whl/cu128"),
        (_no_clang, "clang", "apt install clang"),
        (_empty_root, "CARLA server", "CARLA_ROOT to the folder of an unpacked release"),
        (_other_server, "CARLA server", 'pip install "carla==0.9.15"'),
        (_package("carla", "0.9.13"), "CARLA client", 'pip install "carla==0.9.16"'),
        (_full_disk, "disk", "make room"),
        (_no_folder, "results", "give output= in a folder that you may write"),
        (_cache, "cache", "set STEERLAB_CACHE"),
        (_damaged, "shards in shards", "steerlab collect output=shards"),
    ],
)
def test_a_defect_is_named(
    here: Path,
    monkeypatch: Patch,
    capsys: pytest.CaptureFixture[str],
    defect: Callable[[Path, Patch], Options],
    name: str,
    remedy: str,
) -> None:
    before = set(here.iterdir())
    config = doctor.Config(**defect(here, monkeypatch))
    prepared = set(here.iterdir()) - before
    with pytest.raises(SystemExit) as caught:
        doctor.run(config, None)
    assert str(caught.value) == f"steerlab doctor: 1 wrong: {name}"
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f" {name} ") and " WRONG " in line for line in lines)
    assert any(line.startswith(f"{name}: ") and remedy in line for line in lines)
    assert set(here.iterdir()) - before == prepared  # it makes nothing


def test_nothing_is_wrong_here(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doctor.main([])
    assert "nothing is wrong" in capsys.readouterr().out
    assert not list(here.iterdir())


def test_an_unknown_need_is_named(here: Path) -> None:
    with pytest.raises(SystemExit, match="did you mean 'carla'"):
        doctor.main(["needs=[karla]"])


def test_requirements_are_those_of_the_project() -> None:
    asked = requirements()
    assert {r.name for r in asked[""]} >= {"numpy", "torch", "hydra-core", "packaging", "psutil"}
    assert [r.name for r in asked["camera"]] == ["numba", "zarr"]


@pytest.mark.parametrize(
    ("capability", "build"), [(6.1, "cu126"), (7.0, "cu126"), (7.5, "cu128"), (9.0, "cu128"),
                              (12.0, "cu128"), (None, "cu128")]
)  # fmt: skip
def test_the_build_for_a_gpu(capability: float | None, build: str) -> None:
    assert fitting_build(Gpu("x", capability, 570, "8 GiB")) == build


def test_builds_against_gpus() -> None:
    hopper = Gpu("NVIDIA H200", 9.0, 550, "141 GiB")
    wheel = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
    assert checks.torch_build([hopper], "12.8", wheel, True).status == OK
    ada = Gpu("NVIDIA L4", 8.9, 550, "24 GiB")  # runs the code for 8.6
    assert checks.torch_build([ada], "12.8", wheel, True).status == OK
    newer = Gpu("next", 13.0, 600, "1 GiB")
    assert checks.torch_build([newer], "12.8", wheel, True).status == WRONG
    assert checks.torch_build([newer], "12.8", [*wheel, "compute_120"], True).status == OK
    old_driver = Gpu("NVIDIA T4", 7.5, 470, "16 GiB")
    assert "driver 525" in checks.torch_build([old_driver], "12.8", wheel, True).remedy
    assert checks.torch_build([hopper], "12.8", wheel, False).status == WRONG
    assert checks.torch_build([], None, [], False).status == NOTE
