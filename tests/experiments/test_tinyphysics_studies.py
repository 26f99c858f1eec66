"""The TinyPhysics studies from the command line down to their files."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from steerlab.experiments import evaluate_tinyphysics, fetch_tinyphysics, train_tinyphysics_ppo
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
    assert len(re.findall("data:image/png;base64,", report)) == 4
    assert not re.findall(r'(src|href)="(?!data:)', report)
    assert (here / "out/config.yaml").exists()


def test_processes_do_not_change_the_file(here: Path) -> None:
    evaluate_tinyphysics.main(["segments=routes", "baseline=", "output=a", "processes=1"])
    evaluate_tinyphysics.main(
        ["segments=routes", "baseline=", "output=b", "processes=2", "batch_size=1"]
    )
    assert (here / "a/costs.csv").read_text() == (here / "b/costs.csv").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
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


def test_ppo_study_trains_resumes_and_agrees(here: Path) -> None:
    options = ["total_steps=1600", "num_envs=2", "n_epochs=1", "num_segments=2", "hidden=8"]
    train_tinyphysics_ppo.main([*options, "output=ppo"])
    assert (here / "ppo/last.pt").exists()
    lines = (here / "ppo/metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
    train_tinyphysics_ppo.main([*options, "output=ppo"])  # nothing left to do but the evaluation
    assert (here / "ppo/metrics.jsonl").read_text().splitlines() == lines
    with pytest.raises(SystemExit, match="less than one iteration"):
        train_tinyphysics_ppo.main(["total_steps=10", "output=other"])


@pytest.mark.slow
def test_ppo_learns_and_its_return_is_minus_the_cost(here: Path) -> None:
    config = train_tinyphysics_ppo.Config(total_steps=130_000, num_segments=4)
    results = train_tinyphysics_ppo.run(config, here)
    assert results["gap"] < 1e-9
    assert results["ppo"] < 0.5 * results["zero"]
