"""From nothing to files in one command: what it asks of the other studies, and that it goes on."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("zarr")
pytest.importorskip("numba")

import numpy as np

from steerlab.envs.shards.read import find_shards, open_shard
from steerlab.experiments import collect, export_policy, export_vision, full_training, train_driving
from steerlab.experiments.full_training import (
    Config,
    collecting,
    exporting,
    training,
)
from steerlab.exporters.verify import Check
from steerlab.exporters.written import ChecksFailed
from steerlab.openpilot.engines import load_network
from steerlab.openpilot.network_file import NetworkFile
from steerlab.openpilot.tinygrad import missing_compiler
from steerlab.seeds import episode_seed
from steerlab.study import options_of
from tests.exporters.install.checkouts import contents, make_checkout
from tests.reliability.harness import difference, ended, none_left, results, start

#: Everything at its smallest. Attention and regression export ten times faster than the default.
TINY = [
    "train_episodes=2", "val_episodes=1", "steps=60", "epochs=1", "check=false", "tinygrad=false",
    ("training=[batch_size=8,val_batch_size=8,checkpoint_interval=1,policy.batch_size=4,"
     "policy.reduced=8,policy.hidden=8,policy.trunk=8,policy.encoder=attention,"
     "policy.head=regression,dataset.augmentations=[]]"),
    "output=out",
]  # fmt: skip


def test_what_it_asks_of_the_other_studies() -> None:
    config = Config(
        scenario=("urban_intersection", "highway_follow"), train_episodes=7, val_episodes=3,
        epochs=5, seed=4, steps=100, contract="openpilot-0.10.1", training=("size=small",),
    )  # fmt: skip
    train = options_of(collect.Config, collecting(config, "train"))
    valid = options_of(collect.Config, collecting(config, "val"))
    assert list(train.scenario) == ["urban_intersection", "highway_follow"] == list(valid.scenario)
    assert (train.episodes, valid.episodes) == (7, 3)
    assert (train.stream, valid.stream) == ("data", "validation")
    assert (train.seed, train.steps, train.contract) == (4, 100, "openpilot-0.10.1")
    first = {episode_seed(c.stream, c.seed, i) for c in (train,) for i in range(7)}
    assert not first & {episode_seed(valid.stream, valid.seed, i) for i in range(3)}
    asked = options_of(train_driving.Config, training(config, Path("data")))
    assert asked.stage == "all"
    assert (asked.epochs, asked.policy.epochs, asked.size, asked.seed) == (5, 5, "small", 4)
    assert Path(asked.dataset.train_path) == Path("data/train")
    assert Path(asked.dataset.val_path) == Path("data/val")
    assert asked.contract == "openpilot-0.10.1"
    vision, policy = exporting(config, Path("c.pt"), Path("export"), Path("none"))
    assert options_of(export_vision.Config, vision).contract == "openpilot-0.10.1"
    assert not options_of(export_vision.Config, vision).check  # export-policy checks the pair
    assert options_of(export_policy.Config, policy).check
    assert options_of(export_policy.Config, policy).vision == str(
        Path("export/driving_vision.onnx")
    )


def test_one_network_of_2026_is_joined_from_two() -> None:
    config = Config(contract="openpilot-supercombo-2026-07")
    vision, policy = exporting(config, Path("c.pt"), Path("export"), Path("none"))
    assert options_of(export_vision.Config, vision).contract == "openpilot-0.10.0"
    assert options_of(export_policy.Config, policy).contract == "openpilot-supercombo-2026-07"
    assert options_of(train_driving.Config, training(config, Path())).contract == "openpilot-0.10.0"


def test_paths_of_windows_and_settings_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_run.yaml").write_text("batch_size: 3\nepochs: 9\nseed: 8\n")
    config = Config(config_name="my_run", epochs=2)
    asked = options_of(train_driving.Config, training(config, Path()))
    assert (asked.batch_size, asked.epochs, asked.seed) == (3, 2, 0)
    path = "C:\\Users\\me\\data\\zarr\\train"
    asked = options_of(train_driving.Config, [f"dataset.train_path={path}"])
    assert asked.dataset.train_path == path


def test_the_server_that_goes_on_is_used_again() -> None:
    config = Config(backend="server", carla_root="/carla", keep_carla_running=True)
    assert "carla_root=/carla" in collecting(config, "train")
    assert "carla_root=/carla" not in collecting(config, "val")
    alone = Config(backend="server", carla_root="/carla")
    assert "carla_root=/carla" in collecting(alone, "val")
    assert not any("carla" in a for a in collecting(Config(carla_root="/carla"), "train"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scenario=[urban_intersektion]"], "urban_intersection"),
        (["contract=openpilot-9"], "unknown contract"),
        (["train_episodes=0"], "nothing to learn from"),
        (["skip_data_collection=true"], "there are no shards in"),
        (["skip_training=true"], "there is no checkpoint in"),
        (["checkpoint=none.pt"], "none.pt"),
        (["config_name=none"], "there is no 'none.yaml'"),
        (["training=[bach_size=3]"], "did you mean 'batch_size'"),
        (["backend=karla"], "backend"),
        (["install_models=true"], "openpilot_root="),
        (["install_models=true", "openpilot_root=."], "must not steer a car"),
        (["install_models=true", "openpilot_root=.", "confirm=true"], "is no checkout"),
        (["install_models=true", "skip_export=true"], "driving_vision.onnx is not in"),
    ],
)
def test_mistakes_are_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        full_training.main([*arguments, "output=out"])
    assert message in str(caught.value)
    assert not list(tmp_path.rglob("*.zarr"))


def test_another_contract_than_that_of_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_checkout(tmp_path / "a", "openpilot-0.10.1")
    with pytest.raises(SystemExit, match=r"needs contract=openpilot-0\.10\.1"):
        full_training.main(["install_models=true", "openpilot_root=a", "confirm=true"])


def test_failed_checks_cost_neither_files_nor_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are archived, nothing is installed, and the next call exports again."""
    monkeypatch.chdir(tmp_path)
    make_checkout(tmp_path / "a", "openpilot-0.10.0")
    before, exports = contents(tmp_path / "a"), []

    def write(name: str, wrong: list[Check]) -> Callable[[Any, Path], Any]:
        def run(config: Any, place: Path) -> Any:
            exports.append(name)
            path = place / f"{name}.onnx"
            path.write_text(name)
            if wrong:
                raise ChecksFailed([path], wrong)
            return SimpleNamespace(files=[path])

        return run

    steering = Check("steering", "FAIL", "does not steer", "train it")
    monkeypatch.setattr(export_vision, "run", write("driving_vision", []))
    monkeypatch.setattr(export_policy, "run", write("driving_policy", [steering]))
    monkeypatch.setattr(full_training, "load_driving", lambda path: None)
    (tmp_path / "c.pt").write_text("weights")
    options = ["checkpoint=c.pt", "skip_data_collection=true", "install_models=true"]
    for _ in range(2):
        with pytest.raises(SystemExit, match="1 checks failed: steering; nothing was installed"):
            full_training.main([*options, "confirm=true", "openpilot_root=a", "output=out"])
        archived = json.loads((tmp_path / "out/archive/files.json").read_text())
        assert {"driving_vision.onnx", "driving_policy.onnx"} <= set(archived)
    assert exports == ["driving_vision", "driving_policy"] * 2
    assert contents(tmp_path / "a") == before


def run_here(folder: Path, arguments: list[str]) -> None:
    assert ended(start("full_training", arguments, folder)) == 0, (folder / "log.txt").read_text()


def outcome(folder: Path) -> dict[str, Any]:
    """Return data, weights and exported files of a run."""
    found = results(folder / "out")
    keep = ("data/", "training/artifacts", "export/", "archive/")
    return {name: value for name, value in found.items() if name.startswith(keep)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    run_here(folder, TINY)
    return folder


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks warm processes")


@needs_fork
@pytest.mark.exhaustive
def test_it_makes_everything(whole: Path) -> None:
    out = whole / "out"
    seeds = [{open_shard(p).attributes["seed"] for p in find_shards(out / "data" / use)}
             for use in ("train", "val")]  # fmt: skip
    assert [len(s) for s in seeds] == [2, 1]
    assert not seeds[0] & seeds[1]
    assert (out / "export" / "driving_policy.onnx").is_file()
    archive = out / "archive"
    assert {p.name for p in archive.iterdir()} == {
        "epoch_0002.pt", "full_training.yaml", "train_driving.yaml", "data.json", "versions.json",
        "files.json", "commands.txt",
    }  # fmt: skip
    told = json.loads((archive / "data.json").read_text())
    assert [len(told[use]) for use in ("train", "val")] == [2, 1]
    assert "driving_vision.onnx" in json.loads((archive / "files.json").read_text())
    assert json.loads((archive / "versions.json").read_text())["packages"]["torch"]
    assert len((archive / "commands.txt").read_text().splitlines()) == 5


@needs_fork
@pytest.mark.exhaustive
def test_it_installs_what_is_there_and_goes_back(whole: Path, tmp_path: Path) -> None:
    make_checkout(tmp_path / "a", "openpilot-0.10.0")
    before = contents(tmp_path / "a")
    more = ["install_models=true", "confirm=true", f"openpilot_root={tmp_path / 'a'}"]
    began = time.monotonic()
    run_here(whole, [*TINY, *more])
    assert time.monotonic() - began < 60  # nothing was trained or exported again
    after = contents(tmp_path / "a")
    name = "selfdrive/modeld/models/driving_policy.onnx"
    assert after[name] != before[name]


def kill_after(sign: str) -> Callable[[str, Path], None]:
    """Return a hook that kills the process when a file of that name has appeared."""

    def hook(when: str, path: Path) -> None:
        if when == "after" and path.match(sign):
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


@needs_fork
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "sign",
    [
        "train/config.yaml",
        "val/config.yaml",
        "training/last.pt",
        "epoch_0001.pt",
        "policy/last.pt",
        "epoch_0002.pt",
        "driving_vision.onnx",
        "driving_policy.onnx",
        "archive/data.json",
    ],
)
def test_killed_at_a_stage_it_ends_the_same(whole: Path, tmp_path: Path, sign: str) -> None:
    pid = start("full_training", TINY, tmp_path, kill_after(sign))
    assert ended(pid) == -signal.SIGKILL, (tmp_path / "log.txt").read_text()
    assert none_left(pid)
    run_here(tmp_path, TINY)
    assert not difference(outcome(whole), outcome(tmp_path))


@needs_fork
@pytest.mark.exhaustive
@pytest.mark.skipif(bool(missing_compiler()), reason="tinygrad needs clang")
def test_pickles_of_a_killed_run_compute_the_same(tmp_path: Path) -> None:
    """The kill falls after both ONNX files, before the pickle of the second one."""
    options = [o if o != "tinygrad=false" else "tinygrad=true" for o in TINY]
    said: list[dict[str, Any]] = []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "killed":
            pid = start("full_training", options, folder, kill_after("driving_policy.onnx"))
            assert ended(pid) == -signal.SIGKILL, (folder / "log.txt").read_text()
            assert not (folder / "out/export/driving_policy_tinygrad.pkl").exists()
        run_here(folder, options)
        said.append({})
        for network in ("driving_vision", "driving_policy"):
            file = folder / "out/export" / network
            pickle = NetworkFile(f"{file}_tinygrad.pkl", trust_pickle=True).open()
            onnx = load_network(f"{file}.onnx")
            rng = np.random.default_rng(0)
            inputs = {
                n: rng.integers(0, 256, shape).astype(np.uint8)
                if n in ("img", "big_img")
                else rng.random(shape).astype(np.float32)
                for n, shape in onnx.inputs.items()
            }
            for outputs, values in pickle.engine.run(inputs).items():
                said[-1][f"{network} {outputs}"] = values
                truth = onnx.engine.run(inputs)[outputs]
                np.testing.assert_allclose(values, truth, rtol=1e-3, atol=1e-3 * abs(truth).max())
    assert said[0].keys() == said[1].keys()
    for name, values in said[0].items():
        np.testing.assert_array_equal(values, said[1][name], err_msg=name)
