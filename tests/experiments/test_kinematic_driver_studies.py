"""The studies of KinematicDriver-v0 on tiny settings."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from steerlab.agents.checkpoint import load_checkpoint
from steerlab.agents.recurrent_ppo import train
from steerlab.agents.recurrent_ppo.train import DriverConfig, evaluate_driver, train_driver
from steerlab.agents.sb3 import load_sb3
from steerlab.errors import InputError
from steerlab.experiments import (
    benchmark_kinematic_driver,
    benchmark_recurrent_ppo,
    compare_cvar,
    evaluate_kinematic_driver,
    train_kinematic_driver,
)
from steerlab.files import watch_changes

TINY = {"total_steps": 320, "num_envs": 4, "episode_steps": 40, "batch_size": 80, "epochs": 1}


def test_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_kinematic_driver.main(
        [
            "episodes=12", "max_episode_steps=60", "video=true", f"output={tmp_path}",
            "ranges.friction=[0.9,1.0]",
        ]
    )  # fmt: skip
    text = capsys.readouterr().out
    for word in ("preview", "zero", "random", "intersection", "0 of 12"):
        assert word in text
    assert (tmp_path / "drivers.png").stat().st_size > 5000
    (film,) = tmp_path.glob("preview.*")
    assert film.suffix in (".mp4", ".gif")
    assert film.stat().st_size > 3000


def test_evaluate_refuses(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="unknown driver 'me'"):
        evaluate_kinematic_driver.main(["drivers=[me]", f"output={tmp_path}"])


def test_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """Stopped after an iteration and gone on with: as if nothing had happened."""
    config = DriverConfig(**TINY, alpha=0.3, hidden=8)  # type: ignore[arg-type]
    whole = train_driver(config, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop_after_one(when: str, path: Path) -> None:
        if when == "after" and path.name == "last.pt":
            raise Stop

    with watch_changes(stop_after_one), pytest.raises(Stop):
        train_driver(config, tmp_path / "parts")
    resumed = train_driver(config, tmp_path / "parts")
    for a, b in zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
    states = [load_checkpoint(tmp_path / f / "last.pt")["also"] for f in ("whole", "parts")]
    assert states[0] == states[1]
    assert len(states[0]["returns"]) >= 8
    found = evaluate_driver(whole, 6, 40, 10**6)
    again = evaluate_driver(resumed, 6, 40, 10**6)
    np.testing.assert_array_equal(found.end["base_return"], again.end["base_return"])


def test_warm_start_drives_like_the_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "ROWS", 32)
    monkeypatch.setattr(train, "PASSES", 40)
    config = DriverConfig(**TINY, imitation=2, hidden=16, cell="gru")  # type: ignore[arg-type]
    start = train.warm_start(config, tmp_path / "start")
    env = train.make_driver_env(1, 40, "SameStep", alpha=1.0)
    untrained, taught = (train.make_model(config, env) for _ in range(2))
    load_sb3(start, taught)
    before, after = (
        evaluate_driver(m, 40, 40, 10**6, threshold=200.0) for m in (untrained, taught)
    )
    assert after.end["cte_p95"].mean() < 0.9 * before.end["cte_p95"].mean()
    assert after.end["base_return"].mean() > before.end["base_return"].mean()
    # Both arms of a comparison begin with it.
    kept = start.read_bytes()
    for name, alpha in (("mean", 1.0), ("cvar", 0.1)):
        arm = replace(config, alpha=alpha, sampler=True)
        learned = train_driver(arm, tmp_path / name, start)
        assert start.read_bytes() == kept
        moved = [
            float((a - b).abs().max())
            for a, b in zip(learned.policy.parameters(), taught.policy.parameters(), strict=True)
        ]
        assert 0 < max(moved) < 0.1


def test_a_warm_start_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after each of its rounds and gone on with: as if nothing had happened."""
    monkeypatch.setattr(train, "ROWS", 8)
    config = DriverConfig(**TINY, imitation=3, hidden=8)  # type: ignore[arg-type]
    whole = load_checkpoint(train.warm_start(config, tmp_path / "whole"))

    class Stop(Exception):
        pass

    def stop_after_one(when: str, path: Path) -> None:
        if when == "after" and path.name == "last.pt":
            raise Stop

    for _ in range(3):
        with watch_changes(stop_after_one), pytest.raises(Stop):
            train.warm_start(config, tmp_path / "parts")
    parts = load_checkpoint(train.warm_start(config, tmp_path / "parts"))
    assert parts["step"] == 2
    assert parts["values"] == whole["values"]
    assert parts["log"] == whole["log"]
    for name, value in whole["learner"]["policy"].items():
        assert value.equal(parts["learner"]["policy"][name]), name
    for one, other in zip(whole["drives"]["drivers"], parts["drives"]["drivers"], strict=True):
        assert all(value.equal(other[name]) for name, value in one.items())


def test_training_refuses_too_few_steps(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="less than one iteration"):
        train_driver(DriverConfig(total_steps=10), tmp_path)


def test_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"{k}={v}" for k, v in TINY.items()]
    train_kinematic_driver.main([*arguments, "roads=5", "cell=gru", f"output={tmp_path}"])
    text = capsys.readouterr().out
    assert "learned" in text
    assert "preview" in text


def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"{k}={v}" for k, v in TINY.items()]
    arguments += ["seeds=2", "roads=10", "resamples=50", "hidden=8", "imitation=0"]
    arguments += [f"output={tmp_path}"]
    compare_cvar.main(arguments)
    assert "CVaR_0.05" in capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    for name in ("mean", "cvar", "violations"):
        middle, low, high = summary[name]["difference"]
        assert low <= high
        assert middle == pytest.approx(summary[name]["cvar"][0] - summary[name]["mean"][0])
    before = (tmp_path / "mean_0" / "evaluation.npz").stat().st_mtime_ns
    compare_cvar.main(arguments)  # everything is there already
    assert (tmp_path / "mean_0" / "evaluation.npz").stat().st_mtime_ns == before


def test_intervals_see_a_difference_that_is_there() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(50, 10, (3, 200))
    results = {
        name: [{"returns": r + shift, "violation": (r < 40).astype(int)} for r in shared]
        for name, shift in (("mean", 0.0), ("cvar", 1.0))
    }
    summary = compare_cvar.intervals(compare_cvar.Config(resamples=100), results)
    assert summary["cvar"]["difference"] == pytest.approx((1.0, 1.0, 1.0))
    assert summary["violations"]["difference"] == (0, 0, 0)
    middle, low, high = summary["mean"]["mean"]
    assert low < middle < high


def test_benchmarks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark_kinematic_driver.main(
        [
            "sizes=[8]",
            "cuda_sizes=[]",
            "seconds=0.05",
            "repeats=1",
            "peer=false",
            f"output={tmp_path}",
        ]
    )
    assert "N = 8" in capsys.readouterr().out
    benchmark_recurrent_ppo.main(
        [
            "tasks=[CartPole-v1]", "steps=32", "seeds=1", "envs=2", "hidden=8", "n_steps=16",
            "batch_size=16", f"output={tmp_path / 'b'}",
        ]
    )  # fmt: skip
    assert "sb3-contrib" in capsys.readouterr().out
