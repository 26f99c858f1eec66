"""The studies of vision and policy on tiny settings: tables, files, what is wrong in words."""

import json
from pathlib import Path

import pytest
import torch

from steerlab.agents.drivingpolicy.driver import StraightDriver
from steerlab.agents.drivingpolicy.network import Diffusion, DrivingPolicy, PolicyDesign
from steerlab.agents.visionnet.network import VisionNet
from steerlab.envs.carla_driver.course import CourseOptions, courses
from steerlab.experiments import (
    collect,
    compare_plan_heads,
    evaluate_driving,
    train_driving,
    verify_export,
)
from steerlab.exporters.openpilot import export_model


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short episodes without pictures."""
    folder = tmp_path_factory.mktemp("studies") / "shards"
    collect.main(
        ["scenario=[country_road]", "episodes=2", "steps=110", "pictures=false", f"output={folder}"]
    )
    return folder


@pytest.mark.slow
def test_heads_are_compared(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        f"train={shards}", f"test={shards}", "heads=[regression,anchors+1]", "seeds=[0,1]",
        "policy.epochs=1", "policy.reduced=8", "policy.hidden=8", "policy.trunk=8", "device=cpu",
        f"output={tmp_path / 'run'}",
    ]  # fmt: skip
    compare_plan_heads.main(arguments)
    text = capsys.readouterr().out
    assert "true-state features" in text
    found = json.loads((tmp_path / "run" / "plan_heads.json").read_text())
    assert list(found) == ["constant turn", "regression", "anchors+1"]
    assert len(found["constant turn"]["fde_4s"]) == 1
    one, two = found["regression"]["fde_2s"]
    assert one != two
    assert found["regression"]["best_fde_2s"] == found["regression"]["fde_2s"]
    assert all(b <= a for a, b in zip(found["anchors+1"]["fde_4s"],
                                      found["anchors+1"]["best_fde_4s"], strict=True))  # fmt: skip
    compare_plan_heads.main(arguments)  # what is trained is kept
    assert json.loads((tmp_path / "run" / "plan_heads.json").read_text()) == found


def test_what_is_wrong_is_said_before_work_starts(tmp_path: Path) -> None:
    output, shards = f"output={tmp_path / 'run'}", tmp_path / "none"
    for main, arguments, words in (
        (compare_plan_heads.main, [f"train={shards}", "test=x", "heads=[gan]"], "gan"),
        (compare_plan_heads.main, ["heads=[mdn]"], "train is missing"),
        (evaluate_driving.main, ["vision=a.onnx"], "vision= needs policy="),
        (evaluate_driving.main, ["checkpoint=none.pt"], "none.pt"),
        (evaluate_driving.main, ["policy=a.onnx", "beside=[nobody]"], "nobody"),
        (evaluate_driving.main, ["policy=a.onnx", "episodes=0"], "episodes=0"),
        (evaluate_driving.main, ["policy=a.onnx", "films=99"], "films=99"),
        (evaluate_driving.main, ["policy=a.onnx", "first=9999", "episodes=2"], "first=9999"),
        (verify_export.main, ["model=a.onnx", "vision=b.onnx"], "vision= needs episodes="),
        (
            verify_export.main,
            [
                "model=a.onnx",
                "vision=b.onnx",
                "episodes=1",
                "contract=openpilot-supercombo-2026-07",
            ],
            "vision= is not for",
        ),
        (train_driving.main, ["stage=dagger", f"dataset.train_path={shards}"], "needs checkpoint="),
        (train_driving.main, ["stage=all", "dagger.rounds=1", "dagger.steps=1"], "dagger.steps=1"),
    ):
        with pytest.raises(SystemExit, match=words):
            main([*arguments, output])


@pytest.mark.slow
def test_the_pair_of_the_package_drives_by_default(tmp_path: Path) -> None:
    evaluate_driving.main(
        ["episodes=1", "steps=60", "traffic=0", "beside=[]", f"output={tmp_path / 'run'}"]
    )
    (found,) = json.loads((tmp_path / "run" / "driving.json").read_text()).values()
    assert found["pair"]["violations"] == 0
    assert found["pair"]["cte_p50_steady"] < 0.5
    policy, vision = (tmp_path / "run" / "pair" / f"driving_{n}.onnx" for n in ("policy", "vision"))
    arguments = [f"model={policy}", f"vision={vision}", "tinygrad=false"]
    verify_export.main([*arguments, "episodes=1", f"output={tmp_path / 'checks'}"])
    (loop,) = (c for c in json.loads((tmp_path / "checks" / "checks.json").read_text())
               if c["name"] == "closed loop")  # fmt: skip
    assert loop["status"] == "pass"
    assert "lane_kept" in loop["found"]


def test_episodes_are_the_same_whichever_comes_first(tmp_path: Path) -> None:
    kilometres = []
    for first, episodes in ((0, 2), (1, 1), (0, 1)):
        output = tmp_path / f"{first}_{episodes}"
        output.mkdir()
        found = evaluate_driving.drive_courses(
            {"straight": StraightDriver}, courses(CourseOptions(traffic=0), 60), episodes, output,
            first=first,
        )  # fmt: skip
        (figures,) = found.values()
        kilometres.append(figures["straight"].km)
    assert kilometres[0] == pytest.approx(sum(kilometres[1:]))
    assert kilometres[1] != kilometres[2]


@pytest.mark.exhaustive
def test_an_exported_pair_is_driven_and_filmed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    design = PolicyDesign(16, 16, 16, diffusion=Diffusion(1))
    for network in (VisionNet("tiny").eval(), DrivingPolicy("openpilot-0.10.0", design).eval()):
        model = network.model
        export_model(network, network.contract, model, tmp_path, half=False, tinygrad=False)
    evaluate_driving.main([
        f"policy={tmp_path / 'driving_policy.onnx'}", f"vision={tmp_path / 'driving_vision.onnx'}",
        "episodes=1", "steps=50", "films=1", f"output={tmp_path / 'run'}",
    ])  # fmt: skip
    (found,) = json.loads((tmp_path / "run" / "driving.json").read_text()).values()
    assert set(found) == {"pair", "preview", "straight"}
    assert 0 < found["preview"]["km"] < 0.1
    assert found["preview"]["cte_p95_steady"] < 0.3
    assert list((tmp_path / "run").glob("country_road_0.*"))
