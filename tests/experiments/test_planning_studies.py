"""The studies of planning on tiny settings, wired as a user wires them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steerlab.agents.activation_memory import peak_megabytes
from steerlab.agents.trc.data import load_plans
from steerlab.errors import InputError
from steerlab.experiments import (
    compare_trc,
    evaluate_trc,
    generate_lqr,
    train_trc,
    trc_pipeline,
)


def generate(output: Path, **options: Any) -> Path:
    output.mkdir(parents=True, exist_ok=True)
    generate_lqr.run(generate_lqr.Config(**{"num_samples": 40, **options}), output)
    return output / "lqr_dataset.npz"


def test_generated_states_are_those_of_the_published_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"preset": "published", "labels": "lqr", "judge": "published"}
    data = load_plans(generate(tmp_path, **options)).arrays
    assert "as the published evaluation sees it" in capsys.readouterr().out
    rng = np.random.RandomState(42)
    for i in range(40):  # the published generator draws a start and a target at a time
        np.testing.assert_array_equal(data["initial_states"][i], rng.uniform(-2, 2, 2))
        np.testing.assert_array_equal(data["target_states"][i], rng.uniform(-2, 2, 2))
    assert (data["optimal_costs"] < data["costs"]).all()


@pytest.mark.slow
def test_number_of_processes_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"task": "VanDerPol-v0", "num_steps": 5, "time_horizon": 0.5}
    options["num_samples"] = 130
    one = load_plans(generate(tmp_path / "1", processes=1, check=True, **options)).arrays
    two = load_plans(generate(tmp_path / "2", processes=2, **options)).arrays
    for key, values in one.items():
        np.testing.assert_array_equal(values, two[key])
    assert "controls differ by at most" in capsys.readouterr().out


@pytest.mark.slow
def test_pipeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    config = trc_pipeline.Config(
        task="VanDerPol-v0",
        num_steps=6,
        time_horizon=1.0,
        num_samples=60,
        num_tests=20,
        epochs=2,
        model="small",
        device="cpu",
        latency_seconds=0.01,
    )
    results = trc_pipeline.run(config, tmp_path)
    assert {"random", "regulator, finite", "small", "mlp-19k", "exact optimum"} <= set(results)
    assert results["exact optimum"]["gap_of_means"] == pytest.approx(0, abs=1e-9)
    assert results["random"]["gap_of_means"] > results["regulator, finite"]["gap_of_means"] > 0
    assert results["small"]["latency"]["torch_1"]["median_us"] > 0
    saved = json.loads((tmp_path / "comparison" / "comparison_results.json").read_text())
    assert saved["small"]["gap_mean"] == pytest.approx(results["small"]["gap_mean"])
    evaluation = json.loads((tmp_path / "evaluation" / "evaluation_results.json").read_text())
    assert evaluation["iterates"]["non_increasing"] == 1.0
    assert set(evaluation["closed_loop"]) >= {"network", "regulator"}
    for picture in ("evaluation/gaps", "evaluation/iterates", "comparison/paths"):
        assert (tmp_path / f"{picture}.png").stat().st_size > 10_000
    again = trc_pipeline.run(config, tmp_path)  # nothing is trained again
    assert again["small"]["gap_mean"] == results["small"]["gap_mean"]
    assert "In feedback" in capsys.readouterr().out


@pytest.mark.slow
def test_any_size_is_evaluated_and_outside_methods_join(tmp_path: Path) -> None:
    cases = generate(tmp_path, seed=123)
    config = train_trc.Config(
        data=str(cases), model="small", latent_dim=12, hidden_dim=8, epochs=1, device="cpu"
    )
    train_trc.run(config, tmp_path / "odd")
    checkpoint = str(tmp_path / "odd" / "best.pt")
    tuned = train_trc.run(replace(config, init=checkpoint, learning_rate=1e-5), tmp_path / "tuned")
    assert tuned.describe()["latent_dim"] == 12
    arrays = load_plans(cases).arrays
    outside = tmp_path / "llm.npz"
    names = ("initial_states", "target_states", "control_sequences")
    states, targets, controls = (arrays[name] for name in names)
    np.savez(
        outside, initial_states=states, target_states=targets, control_sequences=0.9 * controls
    )
    (tmp_path / "comparison").mkdir()
    results = compare_trc.run(
        compare_trc.Config([checkpoint], str(cases), [str(outside)], latency_seconds=0.0),
        tmp_path / "comparison",
    )
    assert results["llm"]["gap_of_means"] > 0.01
    alone = tmp_path / "alone.npz"
    np.savez(alone, control_sequences=controls)
    both = compare_trc.Config([checkpoint], str(cases), [str(alone)], latency_seconds=0.0)
    found_alone = compare_trc.run(both, tmp_path / "comparison")["alone"]
    assert found_alone["gap_of_means"] == pytest.approx(0, abs=1e-9)
    shuffled = np.arange(len(states))[::-1]
    np.savez(
        outside, initial_states=states[shuffled], target_states=targets[shuffled],
        control_sequences=controls[shuffled],
    )  # fmt: skip
    with pytest.raises(InputError, match="initial_states are not those of the test cases"):
        compare_trc.run(
            compare_trc.Config([checkpoint], str(cases), [str(outside)]), tmp_path / "comparison"
        )
    np.savez(alone, control_sequences=controls[:3])
    with pytest.raises(InputError, match="the cases need numbers"):
        compare_trc.run(both, tmp_path / "comparison")
    assert "latency" not in results["odd"]
    (tmp_path / "evaluation").mkdir()
    found = evaluate_trc.run(
        evaluate_trc.Config(checkpoint, str(cases), [2.0], [0.1], 3), tmp_path / "evaluation"
    )
    assert found["test"] == pytest.approx({k: results["odd"][k] for k in found["test"]})
    assert found["closed_loop"]["optimum"]["0.1"]["cost"] > 0
    with pytest.raises(InputError, match=r"terminal_factor=100\.0 and not 0\.0"):
        evaluate_trc.run(
            evaluate_trc.Config(checkpoint, str(generate(tmp_path / "p", preset="published"))),
            tmp_path / "evaluation",
        )


def test_memory_is_that_of_the_largest_moment() -> None:
    layer = torch.nn.Linear(10, 1000, bias=False)
    network = torch.nn.Sequential(layer, torch.nn.ReLU(), torch.nn.Linear(1000, 1))
    found = peak_megabytes(network, [torch.zeros(100, 10)])
    # Two activations of 100 x 1,000 are alive at once, the small output is negligible.
    assert found == pytest.approx(0.8, rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "optimum"}, "did you mean 'optimal'"),
        ({"num_samples": 0}, "num_samples=0"),
        ({"processes": -1}, "processes"),
        ({"task": "DoubleIntegrater-v0"}, "did you mean 'DoubleIntegrator-v0'"),
        ({"preset": "best"}, "unknown preset"),
        ({"num_steps": 0}, "steps=0"),
        ({"solver": "gurobi"}, "unknown QP solver"),
        ({"judge": "mine"}, "unknown judge"),
        ({"judge": "published", "task": "VanDerPol-v0"}, "judge=published is one of"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate(tmp_path, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_defaults_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command finds what the one before it writes, none being told where."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="run steerlab generate-lqr first"):
        train_trc.main([])
    generate_lqr.main(["num_samples=40"])
    train_trc.main(["model=mlp", "epochs=1", "device=cpu"])
    evaluate_trc.main(["scales=[2.0]", "disturbances=[0.1]", "closed_loop_cases=2", "device=cpu"])
    compare_trc.main(["latency_seconds=0"])
    written = {path.parent.parent.name for path in tmp_path.glob("runs/*/*/config.yaml")}
    assert written == {"generate_lqr", "train_trc", "evaluate_trc", "compare_trc"}


def test_bad_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cases = generate(tmp_path)
    with pytest.raises(InputError, match="unknown model"):
        train_trc.run(train_trc.Config(data=str(cases), model="tiny"), tmp_path)
    with pytest.raises(InputError, match=r"no best\.pt in runs/train_trc"):
        compare_trc.run(compare_trc.Config([]), tmp_path)
