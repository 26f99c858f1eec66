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
    ablate_tinyphysics_controller as ablate,
    compare_tinyphysics_controllers as compare,
    compare_tinyphysics_recipes as recipes,
    train_tinyphysics_controller as study,
)
from steerlab.seeds import generator_seed
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
        ("recipe=luck", "luck"),
        ("start=nowhere", "there is no checkpoint 'nowhere/policy.pt'"),
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
    segments = synthetic_segments(13, generator_seed("data", 0))[10:13]
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


CLONING = [
    *("recipe=cloning", "cloning.identify=4", "cloning.rounds=2", "cloning.rollouts=4"),
    *("cloning.epochs=1", "report_count=0"),
]
EVOLUTION = [
    *("recipe=cma", "cma.generations=2", "cma.population=4", "cma.routes=1", "report_count=0"),
]


@pytest.mark.slow
def test_recipes_begin_where_another_ended_and_meet_in_one_table(tmp_path: Path) -> None:
    first, then = tmp_path / "cloning", tmp_path / "polished"
    study.main([*SMALL, *CLONING, f"output={first}"])
    study.main([*SMALL, *EVOLUTION, f"start={first}", f"output={then}"])
    results = [json.loads((folder / "result.json").read_text()) for folder in (first, then)]
    assert results[0]["plant_steps"] == (4 + 2 * 4) * 400
    assert results[1]["plant_steps"] == results[0]["plant_steps"] + 2 * 4 * 1 * 400
    assert results[1]["seconds"] > results[0]["seconds"] > 0
    with pytest.raises(SystemExit, match="ask for the same"):
        study.main([*SMALL, *EVOLUTION, f"start={first}", "hidden=9", f"output={tmp_path / 'no'}"])

    table = tmp_path / "table"
    recipes.main([f"runs=[{first},{then}]", f"output={table}"])
    figures = json.loads((table / "table.json").read_text())
    assert list(figures) == ["cloning", "polished"]
    # What the table says of a run is what its file costs on the routes that chose it.
    segments = synthetic_segments(13, generator_seed("data", 0))[8:10]
    again = [
        evaluate(controller_factory(name), segments, "analytic").costs.total_cost
        for name in (str(first / "controller.py"), str(then / "controller.py"), "pid")
    ]
    assert figures["cloning"]["total_cost"] == pytest.approx(again[0].mean(), rel=0.05)
    assert figures["cloning"]["to_pid"] == pytest.approx(
        figures["cloning"]["total_cost"] / again[2].mean()
    )
    difference = figures["polished"]["total_cost"] - figures["cloning"]["total_cost"]
    assert figures["polished"]["difference"] == pytest.approx(difference)
    low, high = figures["polished"]["difference_interval"]
    assert low <= difference <= high
    assert (table / "cost_over_seconds.png").stat().st_size > 1000


@pytest.mark.slow
def test_ablation_compares_variants_of_equal_budget(tmp_path: Path) -> None:
    whole = tmp_path / "run"
    small = [option.replace("plant=analytic", "plant=default") for option in SMALL]
    study.main([*small, "report_count=0", f"output={whole}"])
    options = [
        *(f"run={whole}", "updates=2", "few_updates=1", "rows=8", "hidden=8", "evaluate_every=1"),
        *('variants=["absolute","comma few rows"]', f"output={tmp_path / 'table'}"),
    ]
    ablate.main(options)
    figures = json.loads((tmp_path / "table" / "table.json").read_text())
    assert list(figures) == ["default", "absolute", "few rows", "comma few rows"]
    found = figures["comma few rows"]
    assert found["against"] == "few rows"
    assert found["difference"] == pytest.approx(
        found["total_cost"] - figures["few rows"]["total_cost"]
    )
    stamp = (tmp_path / "table" / "absolute" / "costs.npz").stat().st_mtime_ns
    ablate.main(options)  # nothing is trained again
    assert (tmp_path / "table" / "absolute" / "costs.npz").stat().st_mtime_ns == stamp


def test_tables_need_runs(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="runs= is empty"):
        recipes.main([f"output={tmp_path}"])
    with pytest.raises(SystemExit, match="'nothing' is no output folder of a finished"):
        recipes.main(["runs=[nothing]", f"output={tmp_path}"])
    with pytest.raises(SystemExit, match="run='nothing' is no output folder"):
        ablate.main(["run=nothing", f"output={tmp_path}"])
    with pytest.raises(SystemExit, match="luck"):
        ablate.main(['variants=["luck"]', f"output={tmp_path}"])


def test_comparison_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run='nothing' is no output folder"):
        compare.main(["run=nothing", f"output={tmp_path}"])
    with pytest.raises(SystemExit, match="controller"):
        compare.main(["controllers=[best]", f"output={tmp_path}"])
