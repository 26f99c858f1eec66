"""The studies of PolicyNet on tiny settings: files in place, tables printed, errors named."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from steerlab.agents.policynet.closed_loop import PolicyFile, drive_preview
from steerlab.agents.policynet.evaluate import figures
from steerlab.agents.policynet.model import PolicyNet, PolicySize, Supercombo
from steerlab.agents.policynet.train import load_policy, save_policy
from steerlab.agents.recurrent_ppo.train import DriverConfig
from steerlab.agents.visionnet.network import VisionNet
from steerlab.errors import InputError
from steerlab.experiments import (
    compare_policynet,
    evaluate_driving,
    evaluate_policy,
    quickstart,
    train_policynet,
    verify_export,
)
from steerlab.exporters.openpilot import export_model
from steerlab.exporters.policy import export_policy
from steerlab.exporters.sample import SampleNetwork
from steerlab.openpilot.contracts import contract
from steerlab.openpilot.engines import load_network
from steerlab.openpilot.outputs import unpack
from steerlab.openpilot.runner import Runner


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a dry run."""
    folder = tmp_path_factory.mktemp("dry") / "run"
    train_policynet.main(
        ["dry_run=true", "reduced=8", "hidden=8", "trunk=8", "tinygrad=false", f"output={folder}"]
    )
    return folder


@pytest.mark.slow
def test_a_dry_run_writes_every_file(trained: Path) -> None:
    for name in (
        "driving_policy.onnx", "driving_policy_metadata.pkl", "driving_policy_fp16.onnx",
        "driving_policy_probe.npz", "policy_model.pth", "last.pt", "metrics.jsonl", "drivers.png",
        "held_out.json", "config.yaml",
    ):  # fmt: skip
        assert (trained / name).stat().st_size > 0
    found = json.loads((trained / "held_out.json").read_text())
    assert set(found) == {"PolicyNet", "preview", "untrained"}
    assert found["preview"]["violations"] == 0
    assert not any(
        node.op_type in ("GRU", "LSTM")
        for node in onnx.load(trained / "driving_policy.onnx").graph.node
    )


@pytest.mark.slow
def test_the_file_says_what_the_checkpoint_says(trained: Path) -> None:
    """Through the runner the ONNX file and the network in torch drive the same episodes alike."""
    files = [
        PolicyFile(str(trained / name), "openpilot-0.10.0")
        for name in ("driving_policy.onnx", "policy_model.pth")
    ]
    seeds = range(5, 8)
    from steerlab.agents.policynet.evaluate import drive

    a, b = (figures(drive(file, seeds, max_episode_steps=30)) for file in files)
    # Episodes of 30 steps have no steady state, hence no figures of it.
    assert a.as_dict() == pytest.approx(b.as_dict(), rel=1e-3, abs=1e-4, nan_ok=True)


@pytest.mark.slow
def test_verify_in_a_closed_loop(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        f"model={trained / 'driving_policy.onnx'}", "tinygrad=false", "untrained=true",
        "episodes=1", f"output={trained / 'checks'}",
    ]  # fmt: skip
    verify_export.main(arguments)
    found = {r["name"]: r for r in json.loads((trained / "checks" / "checks.json").read_text())}
    assert found["closed loop"]["status"] == "pass"
    assert "cte_p95" in found["closed loop"]["found"]
    assert "(float16" in found["closed loop"]["found"]
    assert found["torch parity"]["status"] == "pass"
    with pytest.raises(SystemExit, match="held-out"):
        verify_export.main([*arguments[:-2], "episodes=20000", f"output={trained / 'many'}"])


@pytest.mark.slow
def test_evaluate_side_by_side(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate_policy.main(
        [
            f"models=[{trained / 'driving_policy.onnx'},{trained / 'policy_model.pth'}]",
            "episodes=2", "beside=[preview]", "processes=1", f"output={tmp_path}",
        ]
    )  # fmt: skip
    text = capsys.readouterr().out
    for word in ("driving_policy", "policy_model", "preview", "CTE P95", "< 0.5"):
        assert word in text
    assert (tmp_path / "drivers.png").stat().st_size > 5000


def test_hard_episodes_are_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_policy.main(
        ["hard=true", "episodes=40", "beside=[preview]", "processes=1", f"output={tmp_path}"]
    )
    assert "40 hard episodes" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "hard.json").read_text()).values()
    assert found["violations"] == 0  # who sees the true state has no difficulty
    usual = figures(drive_preview(40))
    assert found["km"] > 1.2 * usual.km  # most of them are fast
    assert found["cte_p95"] > usual.cte_p95  # and act late


@pytest.mark.slow
def test_ppo_after_the_dry_run(trained: Path, tmp_path: Path) -> None:
    """The other recipe as a second stage; its files are as complete."""
    arguments = [
        "dry_run=true", "recipe=ppo", f"start={trained / 'policy_model.pth'}", "tinygrad=false",
        "film=0", "ppo.alpha=0.2", f"output={tmp_path}",
    ]  # fmt: skip
    train_policynet.main(arguments)
    for name in ("driving_policy.onnx", "policy_model.pth", "held_out.json"):
        assert (tmp_path / name).stat().st_size > 0
    before, after = (load_policy(f / "policy_model.pth") for f in (trained, tmp_path))
    assert not torch.equal(before.heads.weight, after.heads.weight)
    with pytest.raises(SystemExit, match=r"'alpha': 0\.3"):
        train_policynet.main([*arguments[:-2], "ppo.alpha=0.3", arguments[-1]])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recipe=sac"], "unknown recipe"),
        (["teacher=me"], "neither preview nor"),
        (["recipe=ppo", "start=no.pth"], "no checkpoint"),
        (["recipe=ppo", "ppo.keep=2"], "keep=2"),
        (["env=Other-v0"], "unknown env"),
        (["env=CarlaDriver-v0"], "shows pictures: give vision="),
        (["env=CarlaDriver-v0", "vision=v.onnx", "teacher=me"], "teacher='me' knows"),
        (
            [
                "env=CarlaDriver-v0",
                "vision=v.onnx",
                "recipe=ppo",
                "scenario=[country_road,highway_follow]",
            ],
            "one scenario",
        ),
        (["env=CarlaDriver-v0", "vision=v.onnx", "scenario=[a]"], "unknown scenario"),
        (["traffic=3"], "traffic= is for env=CarlaDriver-v0"),
        (["vision_model=v.onnx"], "is called 'vision' now"),
    ],
)
def test_train_refuses(arguments: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=words):
        train_policynet.main(["dry_run=true", *arguments, f"output={tmp_path}"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["beside=[]"], "models= is empty"),
        (["episodes=0"], "held-out"),
        (["models=[no.onnx]"], "no model file"),
        (["models=[no.pth]"], "no checkpoint"),
        (["beside=[me]"], "unknown driver"),
        (["processes=0"], "processes=0"),
        (["contract=mine"], "unknown contract"),
        (["env=CarlaDriver-v0", "models=[a.onnx]"], "shows pictures: give vision="),
        (["env=CarlaDriver-v0", "hard=true"], "hard=true names episodes"),
        (["map=Town06.xodr"], "map= is for env=CarlaDriver-v0"),
    ],
)
def test_evaluate_refuses(arguments: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=words):
        evaluate_policy.main([*arguments, f"output={tmp_path}"])


@pytest.mark.slow
def test_the_checkpoint_knows_its_contract(trained: Path) -> None:
    file = PolicyFile(str(trained / "policy_model.pth"), "openpilot-0.11.0")
    with pytest.raises(InputError, match=r"trained for openpilot-0\.10\.0"):
        file.network()
    assert load_policy(trained / "policy_model.pth").contract.id == "openpilot-0.10.0"


@pytest.mark.slow
def test_a_vision_model_sees_the_rendered_road(trained: Path, tmp_path: Path) -> None:
    """A stock-like pair drives through the cameras: random vision, the policy behind it."""
    release = contract("openpilot-0.10.0")
    model = release.model("driving_vision")
    done = export_model(SampleNetwork(model), release, model, tmp_path, half=False, tinygrad=False)
    file = PolicyFile(str(trained / "driving_policy.onnx"), release.id, vision=str(done.onnx))
    from steerlab.agents.policynet.evaluate import drive

    record = drive(file, range(3, 5), max_episode_steps=12)
    assert np.isfinite(record.offset).all()
    assert record.offset.size == 24  # 12 steps of two episodes


@pytest.mark.slow
def test_compare_the_recipes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every arm is trained and driven once; the same command again only reads."""
    teacher = DriverConfig(total_steps=80, num_envs=2, episode_steps=40, batch_size=80, hidden=8)
    monkeypatch.setattr(compare_policynet, "TEACHER", teacher)
    arguments = [
        "num_envs=2", "steps=30", "total_steps=240", "ppo_steps=120", "batch_size=4", "epochs=1",
        "reduced=8", "hidden=8", "trunk=8", "ppo.num_envs=2", "ppo.steps=30", "ppo.batch_size=4",
        "ppo.epochs=1", "ppo.critic_first=1", "seeds=2", "roads=3", "resamples=20",
        f"output={tmp_path}",
    ]  # fmt: skip
    compare_policynet.main(arguments)
    text = capsys.readouterr().out
    for word in ("dagger_ppo", "recurrent", "CVaR_0.05", "violations per 10,000 km", "begin with"):
        assert word in " ".join(text.split())
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["recipes"]) == {"dagger", "recurrent", "ppo", "dagger_ppo", "first"}
    for name in ("mean", "cvar", "per_10000_km"):
        middle, low, high = summary["ablation"][name]["difference"]
        assert low <= high
        assert middle == pytest.approx(
            summary["ablation"][name]["cvar"][0] - summary["ablation"][name]["mean"][0]
        )
    # The start of the ablation is the first stage, and drives as it does.
    assert summary["start"]["mean"] == pytest.approx(summary["recipes"]["first"]["return_mean"])
    for name in ("returns.png", "recipes.png"):
        assert (tmp_path / name).stat().st_size > 5000
    for name in ("train_imitation", "train_ppo", "train_driver"):
        monkeypatch.delattr(compare_policynet, name)
    compare_policynet.main(arguments)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ppo_steps=256000"], "ppo_steps=256000"),
        (["seeds=0"], "seeds=0"),
        (["alpha=2"], "alpha=2"),
        (["recurrent=no"], "neither preview nor"),
        (["start=no.pth"], "no checkpoint"),
        (["roads=0"], "held-out"),
    ],
)
def test_compare_refuses(arguments: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=words):
        compare_policynet.main([*arguments, f"output={tmp_path}"])


@pytest.mark.exhaustive
def test_training_with_a_vision_model(tmp_path: Path) -> None:
    release = contract("openpilot-0.10.0")
    model = release.model("driving_vision")
    done = export_model(SampleNetwork(model), release, model, tmp_path, half=False, tinygrad=False)
    train_policynet.main(
        [
            "dry_run=true", f"vision={done.onnx}", "reduced=8", "hidden=8", "trunk=8",
            "tinygrad=false", "num_envs=2", "steps=12", f"output={tmp_path / 'run'}",
        ]
    )  # fmt: skip
    assert (tmp_path / "run" / "driving_policy.onnx").exists()
    assert "hidden_state" in load_network(done.onnx).slices


def test_what_zero_stands_for() -> None:
    """KinematicDriver trains as before there were pictures; with pictures rows and steps are few."""
    usual = train_policynet.settled(train_policynet.Config())
    assert (usual.num_envs, usual.total_steps, usual.epochs) == (128, 768_000, 4.0)
    assert (usual.roads, usual.ppo.num_envs) == (1000, 64)
    config = train_policynet.Config(env="CarlaDriver-v0", vision="v.onnx")
    few = train_policynet.settled(config)
    assert (few.num_envs, few.total_steps, few.roads, few.ppo.num_envs) == (4, 48_000, 10, 4)


def test_drivers_beside_on_a_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table is that of evaluate-driving."""
    evaluate_policy.main(
        ["env=CarlaDriver-v0", "beside=[preview]", "traffic=0", "episodes=2", "steps=60",
         "processes=1", f"output={tmp_path}"]
    )  # fmt: skip
    text = capsys.readouterr().out
    for word in ("metres per violation", "CTE P95, start", "CTE P95, steady", "preview"):
        assert word in text
    ((course, found),) = json.loads((tmp_path / "driving.json").read_text()).items()
    assert course.startswith("country_road on ")
    assert found["preview"]["violations"] == 0
    assert found["preview"]["cte_p95_steady"] < 0.3


@pytest.mark.exhaustive
def test_training_on_pictures_of_a_map(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a vision file to a pair that is driven, evaluated again, and set beside another policy."""
    model = VisionNet("tiny").eval()
    release = model.contract
    seen = export_model(model, release, model.model, tmp_path, half=False, tinygrad=False).onnx
    monkeypatch.setattr(train_policynet, "EPISODE", 60)
    run = tmp_path / "run"
    where = ["env=CarlaDriver-v0", "traffic=0", f"vision={seen}", "processes=1"]
    train_policynet.main(
        [*where, "reduced=8", "hidden=8", "trunk=8", "num_envs=1", "steps=10", "total_steps=20",
         "epochs=4", "batch_size=4", "roads=1", "film=20", "tinygrad=false", f"output={run}"]
    )  # fmt: skip
    text = " ".join(capsys.readouterr().out.split())
    assert "has seen rendered roads only" in text
    assert "must not steer a car" in text
    for name in ("driving_policy.onnx", "driving_vision.onnx", "plan.png", "policy_model.pth"):
        assert (run / name).stat().st_size > 0
    properties = onnx.load(run / "driving_policy.onnx").metadata_props
    assert any("must not steer a car" in p.value for p in properties)
    evaluate_policy.main(
        [*where, f"models=[{run / 'policy_model.pth'}]", "beside=[]", "episodes=1", "steps=50",
         "video=true", f"output={tmp_path / 'again'}"]
    )  # fmt: skip
    ((_, found),) = json.loads((tmp_path / "again" / "driving.json").read_text()).items()
    assert set(found) == {"policy_model"}
    assert list((tmp_path / "again").glob("country_road_0.*"))
    other = PolicyNet(release.id, PolicySize(8, 8, 8))
    save_policy(tmp_path / "features.pth", other)
    evaluate_driving.main(
        [f"policy={run / 'driving_policy.onnx'}", f"vision={run / 'driving_vision.onnx'}",
         f"policynet={tmp_path / 'features.pth'}", "traffic=0", "episodes=1", "steps=50",
         f"output={tmp_path / 'beside'}"]
    )  # fmt: skip
    ((_, found),) = json.loads((tmp_path / "beside" / "driving.json").read_text()).items()
    assert set(found) == {"pair", "PolicyNet", "preview", "straight"}


@pytest.mark.exhaustive
def test_quickstart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quickstart.main(
        [
            "total_steps=38400", "episodes=2", "tinygrad=false", "processes=1",
            f"output={tmp_path}",
        ]
    )  # fmt: skip
    text = capsys.readouterr().out
    for word in ("1. training", "torch parity", "CTE P95", "untrained", "plan.png"):
        assert word in text
    assert (tmp_path / "plan.png").stat().st_size > 5000
    assert list(tmp_path.glob("drive.*"))


def smooth_policy(id: str) -> PolicyNet:
    """Return a policy whose plans are as smooth as trained ones: sharp, long ones outdo float32."""
    torch.manual_seed(0)
    network = PolicyNet(id, PolicySize(16, 16, 16)).eval()
    with torch.no_grad():
        network.heads.weight *= 0.1
        network.read.weight *= 0.1
    return network


@pytest.mark.slow
@pytest.mark.parametrize("id", ["sunnypilot-2025-08", "openpilot-0.10.1", "openpilot-0.11.0"])
def test_other_generations_verify_and_drive(id: str, tmp_path: Path) -> None:
    """Exported for another release, the file passes its checks and runs in its runner."""
    from steerlab.agents.policynet.evaluate import drive
    from steerlab.exporters.verify import Options, failed, verify_export

    network = smooth_policy(id)
    done = export_policy(network, tmp_path, "test", tinygrad=False)
    checks = verify_export(
        done.onnx, network.contract, options=Options(tinygrad=False, untrained=True)
    )
    assert not failed(checks), [c for c in checks if c.status == "FAIL"]
    drive(PolicyFile(str(done.onnx), id), range(2), max_episode_steps=12)
    row = load_network(done.onnx)
    assert unpack(network.model, np.zeros((1, network.model.length)))["plan"].shape[-1] == 15
    assert set(row.inputs) == set(network.model.inputs)


@pytest.mark.exhaustive
@pytest.mark.parametrize("month", ["06", "07"])
def test_supercombos_with_policynet_verify_and_drive(month: str, tmp_path: Path) -> None:
    """A small vision network and PolicyNet in one graph; `test_export_policy` has the later form."""
    from steerlab.exporters.verify import Options, failed, verify_export

    old = contract("openpilot-supercombo-2026-06")
    vision = SampleNetwork(contract("openpilot-0.11.0").model("driving_vision"))
    network: nn.Module = Supercombo(vision, smooth_policy(old.id))
    release = contract(f"openpilot-supercombo-2026-{month}")
    target = release.model("driving_supercombo")
    done = export_model(network, release, target, tmp_path, tinygrad=False)
    checks = verify_export(
        done.onnx, release, options=Options(tinygrad=False, untrained=True, runs=5)
    )
    assert not failed(checks), [c for c in checks if c.status == "FAIL"]
    passed = {c.name for c in checks if c.status == "pass"}
    assert {"torch parity", "metadata file", "float16"} <= passed
    planes = np.random.default_rng(0).integers(0, 256, (2, 1, 6, 128, 256)).astype(np.uint8)
    runner = Runner(release, load_network(done.onnx))
    for frame in range(3):
        step = runner.step(image=planes[0], wide_image=planes[1], v_ego=9.0, desire=frame)
    assert step is not None
    assert np.isfinite(step.raw).all()
    assert step.raw.shape == (1, target.length)
