"""The TinyPhysics studies from the command line down to their files."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from steerlab.experiments import (
    benchmark_tinyphysics,
    evaluate_tinyphysics,
    fetch_tinyphysics,
    train_tinyphysics_ppo,
)
from steerlab.surrogates.segments.data import write_segment
from steerlab.surrogates.segments.synthetic import synthetic_segment

CONTROLLER = (
    "class Controller:\n    def update(self, t, c, s, future_plan):\n        return 0.3 * t\n"
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(CONTROLLER)
    (tmp_path / "routes").mkdir()
    for i in range(4):
        write_segment(tmp_path / f"routes/{i:05d}.csv", synthetic_segment(np.random.default_rng(i)))
    return tmp_path


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_evaluation_writes_costs_and_report(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_tinyphysics.main(
        ["controller=mine.py", "baseline=pid", "segments=routes", "num_segments=3", "output=out"]
    )
    printed = capsys.readouterr().out
    for word in ("mean", "median", "p95", "3 routes", "mine.py", "pid"):
        assert word in printed
    rows = read(here / "out/costs.csv")
    assert list(rows[0]) == ["route", "lataccel_cost", "jerk_cost", "total_cost"]
    assert [r["route"] for r in rows] == ["00000", "00001", "00002"]
    for row in rows:
        tracking, jerk, total = (float(row[k]) for k in list(row)[1:])
        assert total == tracking * 50 + jerk
        assert repr(total) == row["total_cost"]  # every digit
    report = (here / "out/report.html").read_text()
    assert "mine against pid" in report
    assert len(re.findall("data:image/svg[+]xml;base64,", report)) == 3 + 3
    assert len(re.findall(r'<img alt="[^"]{20,}"', report)) == 3 + 3
    assert '<meta name="viewport" content="width=device-width' in report
    assert not re.findall(r'(src|href)="(?!data:)', report)
    assert (here / "out/config.yaml").exists()


def test_processes_do_not_change_the_file(here: Path) -> None:
    evaluate_tinyphysics.main(["segments=routes", "baseline=", "output=a", "processes=1"])
    evaluate_tinyphysics.main(
        ["segments=routes", "baseline=", "output=b", "processes=2", "batch_size=1"]
    )
    assert (here / "a/costs.csv").read_text() == (here / "b/costs.csv").read_text()


def test_one_bad_segment_is_named_and_left_out_on_request(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_segment(here / "routes/00001.csv", synthetic_segment(np.random.default_rng(1), 400))
    options = ["segments=routes", "baseline=", "plant=analytic"]
    with pytest.raises(SystemExit, match=r"'00001.csv' .* has 400 rows, needs 549"):
        evaluate_tinyphysics.main([*options, "output=a"])
    evaluate_tinyphysics.main([*options, "skip_invalid=true", "output=b"])
    assert "left out: segment '00001.csv'" in capsys.readouterr().out
    assert [r["route"] for r in read(here / "b/costs.csv")] == ["00000", "00002", "00003"]


def test_a_controller_that_breaks_in_the_tail(here: Path) -> None:
    """As in comma's script; the costs themselves need no more than step 499."""
    (here / "mine.py").write_text(CONTROLLER.replace("0.3 * t", "0.3 * future_plan.lataccel[48]"))
    options = ["controller=mine.py", "segments=routes", "baseline=", "plant=analytic"]
    with pytest.raises(SystemExit, match="at step 551 with IndexError"):
        evaluate_tinyphysics.main([*options, "output=a"])
    evaluate_tinyphysics.main([*options, "tail=false", "output=b"])
    assert len(read(here / "b/costs.csv")) == 4


@pytest.mark.slow
def test_one_route_step_by_step(here: Path) -> None:
    evaluate_tinyphysics.main(
        ["segments=routes", "baseline=", "plant=analytic", "plot=2", "output=a", "num_segments=3"]
    )
    rows = read(here / "a/00002.csv")
    assert len(rows) == 600
    window = [(float(r["target_lataccel"]), float(r["current_lataccel"])) for r in rows[100:500]]
    tracking = np.mean([(a - b) ** 2 for a, b in window]) * 100
    assert tracking == pytest.approx(
        float(read(here / "a/costs.csv")[2]["lataccel_cost"]), rel=1e-9
    )
    assert (here / "a/00002.gif").read_bytes().startswith(b"GIF89a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["plot=9999"], "unknown segment '9999'"),
        (["segments=nowhere"], "'nowhere' do not exist"),
        (["controller=pdi"], "'pdi' is neither pid nor zero nor a file"),
        (["baseline=mine.txt"], "'mine.txt' is neither"),
        (["plant=plant.onnx"], "'plant.onnx' does not exist"),
        (["runtime=quick"], "unknown runtime 'quick'"),
        (["processes=-1"], "must be 0"),
        (["num_segments=-1"], "must be 0"),
        (["output=mine.py/out"], "cannot write into folder"),
        (["contoller=pid"], "did you mean 'controller'"),
    ],
)
def test_mistakes_are_one_line(here: Path, options: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(message)) as caught:
        evaluate_tinyphysics.main(["output=out", *options])
    assert "\n" not in str(caught.value)
    assert not (here / "out/costs.csv").exists()


def test_fetch_study(here: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERLAB_CACHE", str(here / "cache"))
    pack = shared / "tinyphysics"
    fetch_tinyphysics.main(
        [f"model={pack}/tinyphysics.onnx", f"data={pack}/segments.zip", "num_segments=2"]
    )
    evaluate_tinyphysics.main(
        ["plant=comma", "segments=comma", "num_segments=1", "baseline=", "output=out"]
    )
    with (pack / "expected_costs.csv").open() as file:
        wanted = next(csv.DictReader(file))
    assert read(here / "out/costs.csv")[0]["total_cost"] == wanted["total_cost"]


@pytest.mark.slow
def test_ppo_study_trains_resumes_and_agrees(here: Path) -> None:
    options = ["total_steps=1600", "num_envs=2", "epochs=1", "num_segments=2", "hidden=8"]
    train_tinyphysics_ppo.main([*options, "output=ppo"])
    assert (here / "ppo/last.pt").exists()
    lines = (here / "ppo/metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
    train_tinyphysics_ppo.main([*options, "output=ppo"])  # nothing left to do but the evaluation
    assert (here / "ppo/metrics.jsonl").read_text().splitlines() == lines
    with pytest.raises(SystemExit, match="less than one iteration"):
        train_tinyphysics_ppo.main(["total_steps=10", "output=other"])


@pytest.mark.exhaustive
def test_ppo_learns_and_its_return_is_minus_the_cost(here: Path) -> None:
    config = train_tinyphysics_ppo.Config(total_steps=130_000, num_segments=4)
    results = train_tinyphysics_ppo.run(config, here)
    assert results["gap"] < 1e-9
    assert results["ppo"] < 0.5 * results["zero"]


def test_the_benchmark_names_a_missing_plant(here: Path) -> None:
    pytest.importorskip("pandas")
    with pytest.raises(SystemExit, match=r"plant 'none\.onnx' does not exist"):
        benchmark_tinyphysics.main(["plant=none.onnx", "segments=routes"])
