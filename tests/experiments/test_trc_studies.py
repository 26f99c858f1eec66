"""Studies around a trained planner: other problems, export, fine-tuning; wired as a user would."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from steerlab.agents.trc.data import load_plans
from steerlab.agents.trc.train import load_planner
from steerlab.experiments import (
    evaluate_trc,
    export_trc,
    finetune_trc,
    generate_lqr,
    train_tracking_ppo,
    train_trc,
)
from steerlab.openpilot.engines import session

#: Another bound, other weights, wider starts and a longer horizon than those of the presets.
OTHER = ["limit=6", "spread=4", "input_weight=0.5", "num_steps=20", "time_horizon=8"]
TINY = ["model=small", "latent_dim=8", "hidden_dim=8", "num_inner_cycles=1", "num_blocks=1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with cases of another problem and a planner that was trained on them."""
    folder = tmp_path_factory.mktemp("runs")
    generate_lqr.main(["num_samples=60", "processes=1", *OTHER, f"output={folder}/cases"])
    train_trc.main(
        [f"data={folder}/cases/lqr_dataset.npz", *TINY, "epochs=1", "device=cpu",
         f"output={folder}/other"]
    )  # fmt: skip
    return folder


@pytest.mark.slow
def test_other_problems_from_data_to_evaluation(runs: Path, tmp_path: Path) -> None:
    problem = load_plans(runs / "cases" / "lqr_dataset.npz").problem
    assert (problem.limit, problem.spread, problem.input_weight) == (6.0, 4.0, 0.5)
    assert (problem.steps, problem.horizon, problem.target_spread) == (20, 8.0, 2.0)
    model = load_planner(runs / "other" / "best.pt")
    assert model.problem == problem
    assert model.plan(np.zeros((1, 2)), np.ones((1, 2))).shape == (1, 20, 1)
    few = ["scales=[]", "closed_loop_cases=2", "disturbances=[0.0]", "device=cpu"]
    common = [f"checkpoint={runs}/other/best.pt", *few]
    evaluate_trc.main([*common, "spread=1", "horizons=[7,24]", f"output={tmp_path}/near"])
    near = json.loads((tmp_path / "near" / "evaluation_results.json").read_text())
    assert set(near["fewer_steps"]) == {"7"}
    assert set(near["more_steps"]) == {"24"}
    assert near["more_steps"]["24"]["gap_mean"] > -1e-9
    with pytest.raises(SystemExit, match=r"limit=6\.0 and not 8\.0"):
        evaluate_trc.main([*common, "limit=8", f"output={tmp_path}/limit"])
    cases = f"test_data={runs}/cases/lqr_dataset.npz"
    with pytest.raises(SystemExit, match="spread= and test_data= cannot both"):
        evaluate_trc.main([*common, "spread=8", cases, f"output={tmp_path}/both"])
    with pytest.raises(SystemExit, match="unknown parameter 'mu'"):
        evaluate_trc.main([*common, "mu=2", f"output={tmp_path}/mu"])


def test_training_goes_on_with_wider_data_only(runs: Path, tmp_path: Path) -> None:
    wider = [o if o != "spread=4" else "spread=9" for o in OTHER]
    generate_lqr.main(["num_samples=40", "processes=1", *wider, f"output={tmp_path}/wide"])
    command = [f"init={runs}/other/best.pt", "epochs=1", "device=cpu"]
    train_trc.main([*command, f"data={tmp_path}/wide/lqr_dataset.npz", f"output={tmp_path}/tuned"])
    assert load_planner(tmp_path / "tuned" / "best.pt").problem.spread == 4.0  # its own scale
    generate_lqr.main(["num_samples=40", "processes=1", *OTHER[1:], f"output={tmp_path}/narrow"])
    with pytest.raises(SystemExit, match=r"limit=6\.0 and not 4\.0"):
        train_trc.main(
            [*command, f"data={tmp_path}/narrow/lqr_dataset.npz", f"output={tmp_path}/no"]
        )


def test_reinforcement_learns_the_problem_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(train_tracking_ppo, "train_sb3", lambda model, *_, **__: seen.append(model))
    train_tracking_ppo.main(
        ["num_envs=4", "total_steps=80", "batch_size=20", "cases=5", *OTHER, f"output={tmp_path}"]
    )
    (model,) = seen
    assert model.action_space.high.tolist() == [6.0]
    observations = model.get_env().reset()
    assert 2.0 < np.abs(observations[:, :2]).max() <= 4.0  # spread=4
    assert model.n_steps == 20


@pytest.mark.parametrize(
    "method",
    [
        ["epochs=2", "cases=40", "learning_rate=1e-2", "safe_steps=false"],
        ["method=ppo", "ppo.total_plans=64", "ppo.num_envs=8", "ppo.batch_size=16"],
    ],
)
def test_finetuning_for_a_reward_of_ones_own(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        "def gentle(problem, states, controls, targets):\n"
        "    assert states.shape == (len(targets), problem.steps + 1, 2)\n"
        "    return -(controls[..., 0] ** 2).mean(dim=1)\n"
    )
    common = [f"checkpoint={runs}/other/best.pt", "device=cpu", "test_cases=20", "output=tuned"]
    finetune_trc.main([*common, "reward=own.py:gentle", *method])
    told = json.loads(Path("tuned/results.json").read_text())
    before, after = (load_planner(p) for p in (runs / "other" / "best.pt", "tuned/best.pt"))
    assert before.describe()["safe_steps"]
    assert after.describe()["safe_steps"] == ("safe_steps=false" not in method)
    states, targets = before.problem.sample(np.random.RandomState(123), 20)
    for label, model in (("before", before), ("after", after)):
        worth = -np.square(model.plan(states, targets)).mean(axis=(1, 2)).mean()
        assert told[label]["reward"] == pytest.approx(worth, rel=1e-4)
    assert told["gain"] == pytest.approx(told["after"]["reward"] - told["before"]["reward"])
    with pytest.raises(SystemExit, match="did you mean 'gentle'"):
        finetune_trc.main([*common[:-1], "reward=own.py:gentel", "output=none"])
    with pytest.raises(SystemExit, match="did you mean 'ppo'"):
        finetune_trc.main([*common[:-1], "method=po", "output=none"])


@pytest.mark.slow
def test_export(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_trc.main(
        [f"checkpoint={runs}/other", "tinygrad=none", "cases=7", f"output={tmp_path}/files"]
    )
    path = tmp_path / "files" / "other.onnx"
    told = {p.key: p.value for p in onnx.load(str(path)).metadata_props}
    assert told["source"].startswith("other/best.pt ")
    assert json.loads(told["problem"])["limit"] == 6.0
    shown = capsys.readouterr().out
    rows = [
        line.split("│")[2:5] for line in shown.splitlines() if "torch" in line or "ONNX" in line
    ]
    assert rows[-1] == rows[-2]  # gaps and success of both are the same
    rng = np.random.default_rng(0)
    states, targets = rng.uniform(-2, 2, (2, 5, 2)).astype(np.float32)
    left = np.array([20, 20, 13, 5, 1], np.float32)
    feed = {"initial_state": states, "target_state": targets, "remaining": left}
    (found,) = session(path).run(None, feed)
    model = load_planner(runs / "other" / "best.pt")
    np.testing.assert_allclose(found, model.plan(states, targets, left), atol=1e-3)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("opset=17", "opset=17 must be at least 18"),
        ("rows=-1", "rows=-1 must not be negative"),
        ("checkpoint=nowhere.pt", "there is no checkpoint"),
        ("tinygrad_path=nowhere", "no package tinygrad"),
    ],
)
def test_exports_that_cannot_be(runs: Path, tmp_path: Path, option: str, message: str) -> None:
    given = ["tinygrad=none"] if "tinygrad" not in option else []
    with pytest.raises(SystemExit, match=message):
        export_trc.main([f"checkpoint={runs}/other", *given, option, f"output={tmp_path}/o"])
    assert not list((tmp_path / "o").glob("*.onnx"))
