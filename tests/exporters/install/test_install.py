"""Models go into checkouts and folders, or nothing changes at all."""

import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from steerlab.errors import InputError
from steerlab.experiments import install_models
from steerlab.exporters.install import (
    Given,
    Installed,
    backups,
    install,
    prepare,
    recognise,
    restore,
    running_modeld,
)
from steerlab.exporters.install.backup import FOLDER
from steerlab.exporters.install.install import STEPS
from steerlab.exporters.metadata import metadata_of, onnx_properties, write_metadata
from steerlab.exporters.sample import SampleNetwork
from steerlab.files import watch_changes
from steerlab.openpilot.contracts import Model, contract
from steerlab.openpilot.in_graph import Packed
from steerlab.openpilot.tinygrad import holds_jit, missing_compiler
from tests.counts import Tally
from tests.exporters.install.checkouts import PARSER, SCRIPT, contents, make_checkout
from tests.reliability.harness import ended, kill_at, start

#: Networks by contract; the policy of 2026 is the whole.
install_module = importlib.import_module("steerlab.exporters.install.install")
Networks = Callable[[str], dict[str, str]]


def write_network(model: Model, folder: Path, checkpoint: str) -> Path:
    """Write a network that says the same of whatever it sees, with its metadata beside it."""
    inputs = [torch.zeros(i.shape, dtype=getattr(torch, i.dtype)) for i in model.inputs.values()]
    with torch.no_grad():
        says = Packed(SampleNetwork(model), model)(*inputs)[0].numpy()
    kinds = {"uint8": onnx.TensorProto.UINT8, "float32": onnx.TensorProto.FLOAT}
    nodes, sums = [], ["says"]
    for name in model.inputs:
        nodes += [
            onnx.helper.make_node("Cast", [name], [f"{name}_f"], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("ReduceMean", [f"{name}_f"], [f"{name}_m"], keepdims=0),
            onnx.helper.make_node("Mul", [f"{name}_m", "zero"], [f"{name}_0"]),
        ]
        sums.append(f"{name}_0")
    nodes.append(onnx.helper.make_node("Sum", sums, ["outputs"]))
    graph = onnx.helper.make_graph(
        nodes,
        model.name,
        [onnx.helper.make_tensor_value_info(n, kinds[i.dtype], i.shape)
         for n, i in model.inputs.items()],
        [onnx.helper.make_tensor_value_info("outputs", onnx.TensorProto.FLOAT, (1, model.length))],
        [onnx.numpy_helper.from_array(says[None], "says"),
         onnx.numpy_helper.from_array(np.zeros((), np.float32), "zero")],
    )  # fmt: skip
    proto = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9
    )
    metadata = metadata_of(model, checkpoint)
    onnx.helper.set_model_props(proto, onnx_properties(metadata))
    onnx.save(proto, folder / f"{model.name}.onnx")
    write_metadata(folder / f"{model.name}_metadata.pkl", metadata)
    return folder / f"{model.name}.onnx"


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    made: dict[str, dict[str, str]] = {}

    def make(name: str) -> dict[str, str]:
        if name not in made:
            release, found = contract(name), {}
            for network in release.model_names:
                folder = tmp_path_factory.mktemp("networks")
                path = write_network(release.model(network), folder, f"{name} must not steer a car")
                found["vision" if network == "driving_vision" else "policy"] = str(path)
            made[name] = found
        return made[name]

    return make


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERLAB_CACHE", str(tmp_path_factory.mktemp("cache")))


def put(target: Path, files: dict[str, str], staging: Path, **how: Any) -> Installed:
    """Install ONNX files."""
    staging.mkdir(exist_ok=True)
    given = {part: Given(onnx=files.get(part, "")) for part in ("vision", "policy")}
    plan = prepare(recognise(target), given["vision"], given["policy"], staging)
    return install(plan, staging, **how)


@pytest.mark.parametrize(
    ("name", "sunny"), [("openpilot-0.10.0", False), ("openpilot-0.10.1", True)]
)
def test_install_and_restore(tmp_path: Path, networks: Networks, name: str, sunny: bool) -> None:
    models = make_checkout(tmp_path / "a", name, sunny=sunny)
    before = contents(tmp_path / "a")
    done = put(tmp_path / "a", networks(name), tmp_path / "staging")
    assert (models / "driving_policy.onnx").read_bytes() == Path(
        networks(name)["policy"]
    ).read_bytes()
    assert any("reads 14 heads as they were written" in line for line in done.smoke) or (
        name == "openpilot-0.10.1" and any("reads 13 heads" in line for line in done.smoke)
    )
    assert sum("get_model_metadata.py: the same slices" in line for line in done.smoke) == 2
    after = contents(tmp_path / "a")
    changed = {n for n in before if before[n] != after.get(n)}
    folder = models.relative_to(tmp_path / "a")
    # Without the target's tinygrad the pickles of the old networks go: they do not fit the new metadata.
    assert changed == {
        f"{folder}/driving_{part}{ending}"
        for part in ("vision", "policy")
        for ending in (".onnx", "_metadata.pkl", "_tinygrad.pkl")
    }
    assert f"{folder}/driving_policy_tinygrad.pkl" not in after
    assert {n for n in after.keys() - before.keys() if FOLDER not in n} == set()
    assert len(restore(models)) == 6
    assert contents(tmp_path / "a") == before


def test_the_checkout_of_2026_gets_the_graph_alone(tmp_path: Path, networks: Networks) -> None:
    name = "openpilot-supercombo-2026-07"
    models = make_checkout(tmp_path / "a", name, inside=True)
    (models / "driving_supercombo.onnx").write_bytes(b"old")
    (models / "driving_supercombo.onnx.chunk01of02").write_bytes(b"part of the old one")
    before = contents(tmp_path / "a")
    staging = tmp_path / "staging"
    staging.mkdir()
    policy = Given(onnx=networks(name)["policy"])
    plan = prepare(recognise(tmp_path / "a"), Given(), policy, staging)
    assert [(c.name, c.source is None) for c in plan.changes()] == [
        ("driving_supercombo.onnx", False),
        ("driving_supercombo.onnx.chunk01of02", True),
    ]
    assert any("build there" in note for note in plan.notes)
    done = install(plan, staging)
    assert any("reads 13 heads" in line for line in done.smoke)
    assert not (models / "driving_supercombo.onnx.chunk01of02").exists()
    restore(models)
    assert contents(tmp_path / "a") == before
    with pytest.raises(InputError, match="is one network: join both"):
        prepare(recognise(tmp_path / "a"), policy, policy, staging)


@pytest.mark.parametrize(
    ("checkout", "files"),
    [
        ("openpilot-0.10.0", "openpilot-0.10.1"),
        ("openpilot-0.10.1", "openpilot-0.10.0"),
        ("openpilot-supercombo-2026-07", "openpilot-0.10.0"),
    ],
)
def test_another_contract_is_refused(
    tmp_path: Path, networks: Networks, checkout: str, files: str
) -> None:
    make_checkout(tmp_path / "a", checkout)
    before = contents(tmp_path / "a")
    policy = {"policy": networks(files)["policy"]}
    with pytest.raises(InputError) as caught:
        put(tmp_path / "a", policy, tmp_path / "staging")
    text = str(caught.value)
    assert f"needs {checkout}" in text
    assert f"steerlab export-policy contract={checkout}" in text
    assert re.search(rf"it fits .*{re.escape(files)}", text) or "supercombo" in checkout
    assert contents(tmp_path / "a") == before


class Injected(Exception):
    """The failure of a test."""


def fail_at(step: str) -> Callable[[str], None]:
    def progress(name: str) -> None:
        if name == step:
            raise Injected(step)

    return progress


@pytest.mark.parametrize("error", [Injected, KeyboardInterrupt])
def test_a_failure_at_any_step_leaves_everything(
    tmp_path: Path,
    networks: Networks,
    error: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_checkout(tmp_path / "a", "openpilot-0.10.1")
    before = contents(tmp_path / "a")
    staging, files = tmp_path / "staging", networks("openpilot-0.10.1")
    staging.mkdir()
    plan = prepare(
        recognise(tmp_path / "a"), Given(files["vision"]), Given(files["policy"]), staging
    )

    # It is not what is tried here, and takes a second.
    monkeypatch.setattr(install_module, "smoke_test", lambda *arguments: [])

    def attempt(moment: int, hit: list[str]) -> None:
        """Install, failing at a moment: the steps first, then before and after each visible change."""
        seen = 0

        def count(what: str) -> None:
            nonlocal seen
            seen += 1
            if seen == moment:
                hit.append(what)
                raise error(what)

        with watch_changes(lambda when, path: count(f"{when} {path.name}")):
            install(plan, staging, progress=count)

    moments: list[str] = []
    for moment in range(1, 100):
        hit: list[str] = []
        try:
            attempt(moment, hit)
        except error:
            assert hit
            assert contents(tmp_path / "a") == before, f"failed at {hit[0]}"
            moments += hit
            continue
        break
    assert not hit  # the last one went through
    assert {s for s in STEPS if s in moments} == set(STEPS)
    assert {m for m in moments if m.startswith("before driving")} == {
        f"before driving_{part}{ending}"
        for part in ("vision", "policy")
        for ending in (".onnx", "_metadata.pkl", "_tinygrad.pkl")
    }
    restore(recognise(tmp_path / "a").models)
    assert contents(tmp_path / "a") == before


def killed_and_again(tmp_path: Path, networks: Networks, moment: int) -> bool:
    """Kill the command at a visible change, run it again, restore; tell whether it came that far."""
    place = tmp_path / str(moment)
    models = make_checkout(place / "a", "openpilot-0.10.1")
    before = contents(models)
    files = [f"{part}={path}" for part, path in networks("openpilot-0.10.1").items()]
    arguments = ["target=a", *files, "confirm=true", "smoke=false"]
    if ended(start("install_models", arguments, place, kill_at(moment))) == 0:
        return False
    assert ended(start("install_models", arguments, place)) == 0, (place / "log.txt").read_text()
    new = {n: v for n, v in contents(models).items() if FOLDER not in n}
    assert new.keys() == before.keys() - {
        "driving_vision_tinygrad.pkl",
        "driving_policy_tinygrad.pkl",
    }
    assert new["driving_policy.onnx"] != before["driving_policy.onnx"]
    restore(models)
    assert contents(models) == before
    return True


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks warm processes")
def test_a_sample_of_kills(tmp_path: Path, networks: Networks) -> None:
    assert killed_and_again(tmp_path, networks, 1)
    assert killed_and_again(tmp_path, networks, 6)


@pytest.mark.exhaustive
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks warm processes")
def test_killed_at_every_visible_change(tmp_path: Path, networks: Networks, tally: Tally) -> None:
    moment = 1
    while killed_and_again(tmp_path, networks, moment):
        moment += 1
    assert moment > 10
    tally("kills at a visible change", "install-models", kills=moment - 1, lost=0, differing=0)


def test_a_full_disk_in_the_midst(
    tmp_path: Path, networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkout(tmp_path / "a", "openpilot-0.10.1")
    before = contents(tmp_path / "a")
    import shutil

    real = shutil.copyfile
    count = 0

    def copy(source: Any, target: Any, **how: Any) -> Any:
        nonlocal count
        if "selfdrive" in str(target):
            count += 1
            if count == 3:
                Path(target).write_bytes(b"half")
                raise OSError(28, "No space left on device")
        return real(source, target, **how)

    monkeypatch.setattr(shutil, "copyfile", copy)
    with pytest.raises(OSError, match="No space"):
        put(tmp_path / "a", networks("openpilot-0.10.1"), tmp_path / "staging", smoke=False)
    assert contents(tmp_path / "a") == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parser", "script", "reason"),
    [
        (PARSER.replace("best = np.argmax", "best = 0 * np.argmax"), SCRIPT, "other values in 'lead'"),
        (PARSER.replace("'road_edges', (2,", "'road_edges', (33,").replace("C.IDX_N, 2))\n    if", "2, 2))\n    if"), SCRIPT, "road_edges"),
        ("import openpilot.cereal_of_theirs", SCRIPT, "give python= of"),
        ("class Parser:\n  def parse_outputs(self, outs): return {}", SCRIPT, "gives no"),
        (PARSER, SCRIPT.replace("i.name: shape", "i.name + '_': shape"), "other input_shapes"),
        (PARSER, "raise SystemExit('no such thing')", "no such thing"),
    ],
)  # fmt: skip
def test_the_smoke_test_catches(
    tmp_path: Path, networks: Networks, parser: str, script: str, reason: str
) -> None:
    make_checkout(tmp_path / "a", "openpilot-0.10.0", parser=parser, script=script)
    before = contents(tmp_path / "a")
    with pytest.raises(InputError, match=reason):
        put(tmp_path / "a", networks("openpilot-0.10.0"), tmp_path / "staging")
    assert contents(tmp_path / "a") == before


def test_what_was_built_elsewhere(tmp_path: Path, networks: Networks) -> None:
    """The guide's way: four files, no ONNX."""
    folder = tmp_path / "comma" / "modeld"
    folder.mkdir(parents=True)
    files = {}
    for part, file in networks("openpilot-0.10.0").items():
        jit = tmp_path / f"{part}.pkl"  # a class of that name, pickled; never loaded
        jit.write_bytes(b"\x80\x04\x8c\x13tinygrad.engine.jit\x8c\x07TinyJit\x93.")
        assert holds_jit(jit)
        files[part] = Given(tinygrad=str(jit), metadata=file.replace(".onnx", "_metadata.pkl"))
    staging = tmp_path / "staging"
    staging.mkdir()
    target = recognise(folder, contract_id="openpilot-0.10.0")
    done = install(prepare(target, files["vision"], files["policy"], staging), staging)
    assert {p.name for p in folder.iterdir()} == {
        FOLDER, "driving_policy_metadata.pkl", "driving_policy_tinygrad.pkl",
        "driving_vision_metadata.pkl", "driving_vision_tinygrad.pkl",
    }  # fmt: skip
    assert any("give tree=" in line for line in done.smoke)
    restore(folder)
    assert not list(folder.iterdir())
    weights = tmp_path / "weights.pkl"
    weights.write_bytes(b"\x80\x04}.")
    with pytest.raises(InputError, match="holds no captured TinyJit"):
        prepare(target, Given(), Given(tinygrad=str(weights), metadata=files["policy"].metadata),
                staging)  # fmt: skip
    with pytest.raises(InputError, match="needs its metadata"):
        prepare(target, Given(), Given(tinygrad=files["policy"].tinygrad), staging)


def test_a_bundle(tmp_path: Path, networks: Networks) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    code = tmp_path / "sunny"
    make_checkout(code, "openpilot-0.10.1", sunny=True)
    v2 = code / "sunnypilot" / "modeld_v2"
    (v2 / "parse_model_outputs_split.py").write_text(
        PARSER.replace("openpilot.selfdrive.modeld.constants", "openpilot.sunnypilot.modeld_v2.own")
    )
    (v2 / "own.py").write_text("class ModelConstants:\n  IDX_N = 33\n")
    files = networks("openpilot-0.10.0")
    staging = tmp_path / "staging"
    staging.mkdir()
    target = recognise(folder, tree=code, name="mine")
    plan = prepare(target, Given(files["vision"]), Given(files["policy"]), staging)
    assert plan.contract.id == "openpilot-0.10.0"  # of several that modeld_v2 loads
    done = install(plan, staging)
    assert any("modeld_v2.parse_model_outputs_split: reads 14" in line for line in done.smoke)
    assert {p.name for p in folder.glob("*.pkl")} == {
        "driving_policy_mine_metadata.pkl", "driving_vision_mine_metadata.pkl",
    }  # fmt: skip


def test_a_file_that_was_changed_since_is_not_overwritten(
    tmp_path: Path, networks: Networks
) -> None:
    models = make_checkout(tmp_path / "a", "openpilot-0.10.1")
    put(tmp_path / "a", networks("openpilot-0.10.1"), tmp_path / "staging", smoke=False)
    (models / "driving_policy.onnx").write_bytes(b"mine")
    with pytest.raises(InputError, match="was changed after the installation"):
        restore(models)
    assert (models / "driving_policy.onnx").read_bytes() == b"mine"
    backup = backups(models)[0]
    (models / "driving_policy.onnx").write_bytes(b"old driving_policy.onnx")
    (backup / "driving_vision.onnx").write_bytes(b"rotten")
    with pytest.raises(InputError, match="is damaged"):
        restore(models)
    note = json.loads((backup / "manifest.json").read_text())
    note["files"] = {"../evil": {"was": None, "now": None}}
    (backup / "manifest.json").write_text(json.dumps(note))
    with pytest.raises(InputError, match="is damaged"):
        restore(models)
    with pytest.raises(InputError, match="no backup '2020'"):
        restore(models, "2020")


def test_the_command(
    tmp_path: Path, networks: Networks, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    models = make_checkout(tmp_path / "a", "openpilot-0.10.1")
    before = contents(tmp_path / "a")
    files = [f"{part}={path}" for part, path in networks("openpilot-0.10.1").items()]
    with pytest.raises(SystemExit, match="add confirm=true"):
        install_models.main(["target=a", *files])
    out = capsys.readouterr().out
    assert "A model trained in simulation must not steer a car on a road." in out
    assert "needs openpilot-0.10.1" in out
    assert "driving_policy_tinygrad.pkl   removed" in re.sub(r" {2,}", "   ", out)
    assert contents(tmp_path / "a") == before
    install_models.main(["target=a", *files, "dry_run=true"])
    assert "dry run: nothing was changed" in capsys.readouterr().out
    assert contents(tmp_path / "a") == before
    install_models.main(["target=a", *files, "confirm=true"])
    back = re.search(r"to go back: steerlab install-models (\S+ \S+)", capsys.readouterr().out)
    assert contents(tmp_path / "a") != before
    install_models.main(["target=a", *files, "confirm=true"])
    assert "these files are there already: nothing was changed" in capsys.readouterr().out
    assert back
    install_models.main(back[1].split())
    assert contents(tmp_path / "a") == before
    assert models.is_dir()
    assert not (tmp_path / "runs").exists()
    with pytest.raises(SystemExit, match="target= is missing"):
        install_models.main([])
    with pytest.raises(SystemExit, match="nothing to install"):
        install_models.main(["target=a"])


def test_modeld_that_runs_is_seen() -> None:
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", "selfdrive.modeld.modeld"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        assert any(line.startswith(f"{process.pid}: ") for line in running_modeld())
    finally:
        process.communicate()
    assert not any(line.startswith(f"{process.pid}: ") for line in running_modeld())


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_compiler()), reason="needs clang")
def test_pickles_are_built_with_the_targets_tinygrad(tmp_path: Path, networks: Networks) -> None:
    models = make_checkout(tmp_path / "a", "openpilot-0.10.1")
    spec = importlib.util.find_spec("tinygrad")
    assert spec
    assert spec.submodule_search_locations
    (tmp_path / "a" / "tinygrad_repo").mkdir()
    (tmp_path / "a" / "tinygrad_repo" / "tinygrad").symlink_to(spec.submodule_search_locations[0])
    done = put(tmp_path / "a", networks("openpilot-0.10.1"), tmp_path / "staging")
    for part in ("vision", "policy"):
        assert holds_jit(models / f"driving_{part}_tinygrad.pkl")
    lines = [line for line in done.smoke if "in the target's tinygrad" in line]
    assert len(lines) == 2
    restore(models)
    assert (
        models / "driving_policy_tinygrad.pkl"
    ).read_bytes() == b"old driving_policy_tinygrad.pkl"


@pytest.mark.skipif("OPENPILOT_ROOT" not in os.environ, reason="set OPENPILOT_ROOT to a checkout")
def test_a_real_checkout(tmp_path: Path, networks: Networks) -> None:
    """A dry run in the checkout itself, then installation and restoration in a copy of its code."""
    root = Path(os.environ["OPENPILOT_ROOT"])
    target = recognise(root)
    files = networks(target.accepts[0])
    listed = sorted(target.models.iterdir())
    done = put(root, files, tmp_path / "staging", dry_run=True)
    assert any("heads as they were written" in line for line in done.smoke)
    assert sorted(target.models.iterdir()) == listed

    parts = ("common", "openpilot", "selfdrive/modeld", "sunnypilot", "SConstruct")
    for part in (*parts, "launch_openpilot.sh"):
        if (root / part).is_dir():
            shutil.copytree(root / part, tmp_path / "copy" / part, symlinks=True)
        elif (root / part).is_file():
            shutil.copy(root / part, tmp_path / "copy" / part)
    models = tmp_path / "copy" / target.models.relative_to(root)
    before = contents(models)
    put(tmp_path / "copy", files, tmp_path / "staging")
    written = {path.read_bytes() for path in models.glob("*.onnx")}
    assert {Path(path).read_bytes() for path in files.values()} <= written
    restore(models)
    assert contents(models) == before
