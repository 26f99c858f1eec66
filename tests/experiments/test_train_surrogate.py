"""Training on every source in small, with a kill in the middle."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steerlab.agents.checkpoint import load_checkpoint
from steerlab.agents.run_log import read_log
from steerlab.agents.tinyphysics.exploration import Exploration, explore, vary
from steerlab.experiments import export_surrogate, train_surrogate
from steerlab.experiments.train_surrogate import main
from steerlab.surrogates.plants.analytic import AnalyticPlant
from steerlab.surrogates.plants.onnx import OnnxPlant
from steerlab.surrogates.segments.data import Segments, write_segment
from steerlab.surrogates.segments.synthetic import synthetic_segment, synthetic_segments
from steerlab.surrogates.training.dataset import Sequences

SMALL = ["size=small", "epochs=2", "batch_size=32", "warmup_steps=5", "device=cpu"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_surrogate, "_WATCHED", 2)
    Path("routes").mkdir()
    for number in range(6):
        table = synthetic_segment(np.random.default_rng(number))
        write_segment(f"routes/{number:05d}.csv", table)
    return tmp_path


@pytest.mark.slow
def test_resume_after_a_kill_equals_no_interruption(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*SMALL, "drives=8", "validation=0.2", "export_onnx=false"]
    main([*arguments, "output=whole"])
    real, calls = train_surrogate.next_token_loss, 0

    def dies(*args: Any) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(train_surrogate, "next_token_loss", dies)
    with pytest.raises(SystemExit, match="130"):
        main([*arguments, "output=cut"])
    monkeypatch.setattr(train_surrogate, "next_token_loss", real)
    main([*arguments, "output=cut"])
    whole, cut = (load_checkpoint(Path(name, "best.pt"))["model"] for name in ("whole", "cut"))
    for name, weight in whole.items():
        assert torch.equal(weight, cut[name])
    history = read_log("whole")
    assert history == read_log("cut")
    assert history[-1]["train/loss"] < history[0]["train/loss"]
    assert {"valid/nll", "valid/top1", "valid/pid_total_cost"} <= set(history[0])


@pytest.mark.slow
def test_distillation_from_a_file_to_a_comparison(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*SMALL, "drives=8", "output=teacher", "epochs=1"])
    main([
        *SMALL, "sources=[distil,segments]", "teacher=teacher/plant.onnx", "segments=routes",
        "rollouts=6", "holdout_first=4", "holdout_count=2", "validation=0.3", "processes=1",
        "predictions=10", "output=student", "onnx_path=out/student.onnx",
    ])  # fmt: skip
    assert "kept out" in capsys.readouterr().out
    teacher, _, student = json.loads(Path("student/comparison.json").read_text())
    assert teacher["kl"] == pytest.approx(0.0, abs=1e-9)
    assert 0 < student["kl"] < 5
    assert student["total_cost"] > 0
    assert OnnxPlant("out/student.onnx").path.stat().st_size < 3e6


def test_varied_routes_reach_tight_turns_within_the_limits() -> None:
    routes = synthetic_segments(20)[np.arange(400) % 20]
    varied = vary(routes, np.random.default_rng(0))

    def tight(segments: Segments) -> float:
        return float(((segments.v_ego < 15) & (np.abs(segments.target) > 1.5)).mean())

    assert varied.names == routes.names
    assert np.abs(varied.target).max() <= 4.5
    assert np.abs(varied.steer).max() <= 2.0
    assert (varied.v_ego >= 0.3 * routes.v_ego - 1e-9).all()
    assert tight(varied) > max(0.005, 2 * tight(routes))
    mirrored = (np.sign(varied.target) != np.sign(routes.target)).all(axis=1)
    assert 0.3 < mirrored.mean() < 0.7


def test_exploration_resumes_and_depends_on_its_seed_alone(here: Path) -> None:
    exploration = Exploration("analytic", synthetic_segments(3), 3, seed=1)
    (path,) = explore(exploration, here / "a", processes=1)
    first = path.read_bytes()
    assert explore(exploration, here / "a", processes=1) == [path]
    assert explore(exploration, here / "b", processes=1)[0].read_bytes() == first
    one, two = (exploration.chunk(n, AnalyticPlant()) for n in (0, 0))
    assert isinstance(one, Sequences)
    assert isinstance(two, Sequences)
    np.testing.assert_array_equal(one.tokens, two.tokens)
    other = Exploration("analytic", synthetic_segments(3), 3, seed=2).chunk(0, AnalyticPlant())
    assert isinstance(other, Sequences)
    assert not np.array_equal(one.tokens, other.tokens)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sources=[distill]"], "did you mean 'distil'"),
        (["sources=[]"], "names no data"),
        (["sources=[extracted]"], "needs samples_path"),
        (["sources=[extracted]", "samples_path=routes"], "holds no extracted segments"),
        (["sources=[segments]", "segments=routes"], "needs 500 routes"),
        (["size=huge"], "unknown size 'huge'"),
        (["architecture=lstm"], "unknown architecture"),
        (["predictions=0"], "predictions=0"),
        pytest.param(["onnx_opset=7"], "onnx_opset=7 cannot be written", marks=pytest.mark.slow),
        (["onnx_path=plant.txt"], "names no ONNX file"),
        (["onnx_path=routes/00000.csv/plant.onnx"], "cannot write into"),
        (["sources=[segments]", "segments=nowhere"], "do not exist"),
    ],
)
def test_bad_options(arguments: list[str], message: str, here: Path) -> None:
    with pytest.raises(SystemExit, match=message):
        main([*arguments, "output=run"])
    assert not Path("run/config.yaml").exists()  # the mended command can use the folder


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, "out/plant.onnx"),
        ("models", "models/plant.onnx"),
        ("models/", "models/plant.onnx"),
        ("new/", "new/plant.onnx"),
        ("models/mine.onnx", "models/mine.onnx"),
    ],
)
def test_where_a_plant_goes(here: Path, given: str | None, wanted: str) -> None:
    Path("models").mkdir()
    assert train_surrogate.onnx_file(given, Path("out")) == Path(wanted)


@pytest.mark.slow
def test_a_trained_plant_is_exported_again(here: Path) -> None:
    main([*SMALL, "drives=4", "epochs=1", "architecture=tcn", "validation=0.3", "output=run"])
    export_surrogate.main(["checkpoint=run", "onnx_path=models/", "output=again"])
    one, two = OnnxPlant("run/plant.onnx"), OnnxPlant("models/plant.onnx")
    states = np.zeros((1, 20, 4), np.float32)
    tokens = np.full((1, 20), 511)
    np.testing.assert_array_equal(one.logits(states, tokens), two.logits(states, tokens))
    for wrong, message in (("nowhere", "no checkpoint"), ("run/last.json", "no checkpoint")):
        with pytest.raises(SystemExit, match=message):
            export_surrogate.main([f"checkpoint={wrong}", "output=other"])
