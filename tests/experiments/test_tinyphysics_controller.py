"""The studies that train and compare TinyPhysics controllers, end to end on small settings."""

import json
from pathlib import Path

import numpy as np
import pytest

from steerlab.agents.classical.comma import controller_factory
from steerlab.agents.tinyphysics import SHIPPED
from steerlab.agents.tinyphysics.report import summary
from steerlab.envs.tinyphysics.rollout import evaluate
from steerlab.experiments import (
    compare_tinyphysics_controllers as compare,
    train_tinyphysics_controller as study,
)
from steerlab.surrogates.segments.synthetic import default_segments, synthetic_segments

SMALL = [
    *("plant=analytic", "segments=synthetic", "train_count=8", "select_count=2"),
    *("report_first=10", "report_count=3", "rounds=1", "rollouts=6", "plant_epochs=1"),
    *("updates=4", "rows=8", "hidden=8", "evaluate_every=2", "processes=1", "salts=[other]"),
]


def test_figures_are_those_of_the_routes() -> None:
    total = np.array([10.0, 20.0, 30.0, 140.0])
    found = summary({"jerk_cost": total / 10, "total_cost": total})
    assert found["total_cost"] == 50.0
    assert found["jerk_cost"] == 5.0
    assert found["median"] == 25.0
    assert found["p95"] == pytest.approx(123.5)
    low, high = found["interval"]
    assert 10 <= low < 50 < high <= 140


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("report_first=5", "report_first=5 lies among the 10 routes"),
        ("segments=default report_count=9", "has 16 routes"),
        ("preview=51", "preview=51 must be 2 to 50"),
        ("history=1", "history=1 must be 2 to 20"),
        ("rounds=0", "rounds=0 must be at least 1"),
        ("horizon=33", "horizon=33"),
        ("plant=nowhere.onnx", "nowhere.onnx"),
    ],
)
def test_wrong_options_stop_before_work(option: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=message):
        study.main([*SMALL, *option.split(), f"output={tmp_path}"])
    assert not (tmp_path / "round_1").exists()


def test_shipped_controller_beats_pid_where_it_was_trained() -> None:
    segments = default_segments()[:3]
    ours, pid = (
        evaluate(controller_factory(name), segments, "default").costs.total_cost.mean()
        for name in ("steerlab", "pid")
    )
    assert ours < 0.95 * pid
    assert SHIPPED.stat().st_size < 100_000


@pytest.mark.slow
def test_study_trains_exports_reports_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tmp_path / "whole"
    study.main([*SMALL, f"output={whole}"])
    for name in ("controller.py", "policy.onnx", "drives.png", "training_curves.png"):
        assert (whole / name).stat().st_size > 1000
    result = json.loads((whole / "result.json").read_text())
    assert set(result["report"]) == {
        *("pid, official", "controller.py, official", "controller.py, other")
    }
    # The report is what an evaluation of the file finds on routes that training has not seen.
    segments = synthetic_segments(13, study.generator_seed("data", 0))[10:13]
    again = evaluate(controller_factory(str(whole / "controller.py")), segments, "analytic")
    assert result["report"]["controller.py, official"]["total_cost"] == pytest.approx(
        float(again.costs.total_cost.mean()), rel=1e-12
    )
    cut = tmp_path / "cut"
    study.main([*SMALL, f"output={cut}", "report_count=0"])
    (cut / "controller.py").unlink()
    study.main([*SMALL, f"output={cut}", "report_count=0"])
    assert (cut / "controller.py").read_text() == (whole / "controller.py").read_text()

    capsys.readouterr()
    table = tmp_path / "table"
    quick = ["pid", "feedforward", "regulator", "policy"]
    names = f"controllers=[{','.join(quick)}]"
    compare.main([f"run={whole}", names, "first=10", "count=2", f"output={table}"])
    figures = json.loads((table / "table.json").read_text())
    assert list(figures) == quick
    assert figures["regulator"]["total_cost"] < figures["pid"]["total_cost"]
    assert "policy" in capsys.readouterr().out


def test_comparison_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run='nothing' is no output folder"):
        compare.main(["run=nothing", f"output={tmp_path}"])
    with pytest.raises(SystemExit, match="controller"):
        compare.main(["controllers=[best]", f"output={tmp_path}"])
