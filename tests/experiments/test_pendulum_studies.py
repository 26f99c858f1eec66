"""The pendulum's studies from data to table on tiny settings, and what happens after a kill."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steerlab.agents import supervised
from steerlab.agents.checkpoint import load_checkpoint
from steerlab.agents.classical.pendulum import StateFeedback
from steerlab.agents.inverted_pendulum.data import load_pairs
from steerlab.agents.inverted_pendulum.ensemble import load_model
from steerlab.agents.inverted_pendulum.episodes import consecutive, play
from steerlab.agents.inverted_pendulum.evaluate import interval
from steerlab.agents.inverted_pendulum.sampling import Sampling, randomness, sampler_of
from steerlab.envs.inverted_pendulum.dynamics import PendulumParameters, step
from steerlab.envs.inverted_pendulum.env import InvertedPendulumVectorEnv
from steerlab.errors import InputError
from steerlab.experiments import (
    evaluate_pendulum,
    export_pendulum,
    generate_pendulum_data,
    train_pi0,
    train_pi0_fast,
)
from steerlab.openpilot.engines import session
from tests.agents.inverted_pendulum.published_files import write_repository

pytest.importorskip("tokenizers")
SMALL = ["width=16", "layers=1", "batch_size=64", "device=cpu", "threads=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    generate_pendulum_data.main(["trajectories=30", "tokenizer=seed", f"output={folder}"])
    return folder


@pytest.fixture(scope="module")
def ensemble(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ensemble")
    train_pi0.main(
        ["--multirun", "seed=0,1", "epochs=2", f"data={data}", f"output={folder}", *SMALL]
    )
    return folder


def test_pairs_have_the_published_keys_and_a_split_by_trajectory(data: Path) -> None:
    with np.load(data / "training_pairs_original.npz") as file:
        assert file["state"].shape == (750, 4)
        assert file["action_chunk"].shape == (750, 50)
        trajectory, split = file["trajectory"], file["split"]
    with np.load(data / "training_pairs_fast.npz") as file:
        assert file["token_seq"].shape[0] == 750
        np.testing.assert_array_equal(file["split"], split)
    assert all(len(set(split[trajectory == t])) == 1 for t in range(30))
    assert np.bincount(split).tolist() == [600, 75, 75]


def test_a_chunk_is_what_the_expert_did_from_the_state(data: Path) -> None:
    pairs = load_pairs(data, "original")
    with np.load(data / "trajectories.npz") as file:
        states, actions = file["states"], file["actions"]
    np.testing.assert_array_equal(pairs.states[25 * 3 + 24], states[3, 48])
    np.testing.assert_array_equal(pairs.targets[25 * 3 + 24], actions[3, 48:98])


def test_the_same_seed_writes_the_same_data(data: Path, tmp_path: Path) -> None:
    generate_pendulum_data.main(["trajectories=30", "tokenizer=seed", f"output={tmp_path}"])
    for name in ("original", "fast"):
        np.testing.assert_array_equal(
            load_pairs(tmp_path, name).targets, load_pairs(data, name).targets
        )


@pytest.mark.parametrize("recoveries", [0, 1])
def test_goals_have_two_ways(recoveries: int, tmp_path: Path) -> None:
    generate_pendulum_data.main(["task=goals", "trajectories=20", "tokenizer=seed",
                                 f"recoveries={recoveries}", f"output={tmp_path}"])  # fmt: skip
    with np.load(tmp_path / "trajectories.npz") as file:
        states, goals = file["states"], file["goals"]
    assert goals.tolist() == 10 * [-1.5, 1.5]
    np.testing.assert_allclose(states[:, -1, 0], goals, atol=0.3)
    if not recoveries:  # the same start for both ways, and both in the same part of the split
        np.testing.assert_array_equal(states[::2, 0], states[1::2, 0])
    with np.load(tmp_path / "training_pairs_original.npz") as file:
        split = file["split"].reshape(10, -1)
    assert (split == split[:, :1]).all()
    assert (np.abs(states[:, 0, 0] - recoveries * goals) <= 0.2).all()
    assert np.abs(states[:, 0, 1:]).max() > 0.1
    assert np.abs(states[:, 40:, 0]).min() > 0.5  # out of the obstacle's way


def test_experts_that_chatter_are_left_out(tmp_path: Path) -> None:
    # A strong motor under a short pole is more than the nominal feedback can hold.
    generate_pendulum_data.main(["task=goals", "trajectories=40", "tokenizer=seed",
                                 "pole_length=[0.6,0.75]", "gear=[1.3,1.5]",
                                 f"output={tmp_path}"])  # fmt: skip
    with np.load(tmp_path / "trajectories.npz") as file:
        assert np.abs(file["actions"][:, -20:]).max() < 0.5
        assert len(file["actions"]) == 40


def test_every_trajectory_has_its_plant(tmp_path: Path) -> None:
    generate_pendulum_data.main(["trajectories=20", "tokenizer=seed", "noise=0",
                                 "pole_length=[0.8,1.25]", f"output={tmp_path}"])  # fmt: skip
    with np.load(tmp_path / "trajectories.npz") as file:
        states, actions, plants = file["states"], file["actions"], file["plants"]
    assert plants.shape == (20, 3)
    np.testing.assert_array_equal(plants[:, [0, 2]], 1.0)
    assert np.ptp(plants[:, 1]) > 0.2
    own = PendulumParameters().scaled(*plants.T).coefficients()
    np.testing.assert_allclose(step(states[:, 10], actions[:, 10], own), states[:, 11], atol=1e-6)


def test_ensemble_has_one_stem_a_member(ensemble: Path) -> None:
    stems = [
        {p.stem for p in (ensemble / folder).iterdir()}
        for folder in ("trained_models", "logs", "loss_pics")
    ]
    assert stems[0] == stems[1] == stems[2]
    assert len(stems[0]) == 2  # although both started in the same minute
    for stem in stems[0]:
        contents = load_checkpoint(ensemble / "trained_models" / f"{stem}.pth")
        assert contents["figures"]["test loss"] > 0
        text = (ensemble / "logs" / f"{stem}.txt").read_text()
        assert f"seed: {contents['config']['seed']}" in text


def test_a_killed_ensemble_finishes_only_what_is_missing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--multirun", "seed=0,1,2", "epochs=3", f"data={data}", f"output={tmp_path}", *SMALL]
    train = supervised._train_epoch
    calls: list[tuple[int, int]] = []

    def counts(*args: Any) -> Any:
        if len(calls) == kill_after:
            raise KeyboardInterrupt
        calls.append((args[3].seed, args[4]))
        return train(*args)

    monkeypatch.setattr(supervised, "_train_epoch", counts)
    kill_after = 5  # in the middle of the second of three members
    with pytest.raises(SystemExit):
        train_pi0.main(command)
    assert len(list((tmp_path / "trained_models").iterdir())) == 1
    first = next((tmp_path / "trained_models").iterdir())
    written = first.stat().st_mtime_ns
    kill_after = -1
    train_pi0.main(command)
    assert calls == [(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len(list((tmp_path / "trained_models").iterdir())) == 3
    assert first.stat().st_mtime_ns == written


@pytest.mark.slow
def test_evaluation_from_one_end_to_the_other(data: Path, ensemble: Path, tmp_path: Path) -> None:
    fast = tmp_path / "fast"
    train_pi0_fast.main(["epochs=1", f"data={data}", f"output={fast}", *SMALL])
    evaluate_pendulum.main(
        [f"data={data}", f"pi0={ensemble}", f"pi0_fast={fast}", "episodes=10", "noises=[0.01]",
         "replans=[15]", "variants=[nominal,heavy]", "mlp_models=1", "mlp_epochs=1", "samples=2",
         "sequences=2", "device=cpu", f"output={tmp_path / 'out'}"]
    )  # fmt: skip
    cells = json.loads((tmp_path / "out" / "results.json").read_text())
    rates = {(c["variant"], c["controller"]): c for c in cells}
    assert rates["nominal", "PID"]["success"] == [100]
    assert rates["nominal", "LQR, rolled out"]["convergence"][0] >= 90
    assert len(rates["nominal", "pi0"]["success"]) == 2
    assert len(rates["heavy", "pi0-FAST"]["success"]) == 1
    assert (tmp_path / "out" / "rates.png").stat().st_size > 10_000


def test_published_checkpoints_play_beside_the_rest(data: Path, tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "published", 2)
    evaluate_pendulum.main(
        [f"data={data}", f"published={repository}", "episodes=3", "noises=[0.01]", "replans=[12]",
         "mlp_models=0", "reset_noise=0", "episode_steps=12", "device=cpu",
         f"output={tmp_path / 'out'}"]
    )  # fmt: skip
    cells = {
        c["controller"]: c for c in json.loads((tmp_path / "out" / "results.json").read_text())
    }
    for kind in ("published pi0", "published pi0-FAST"):
        assert len(cells[kind]["success"]) == 2
    with pytest.raises(SystemExit, match="give a copy of the published repository"):
        evaluate_pendulum.main([f"data={data}", f"published={data}", f"output={tmp_path / 'none'}"])


def test_evaluation_of_short_episodes_from_rest(data: Path, tmp_path: Path) -> None:
    evaluate_pendulum.main(
        [f"data={data}", "episodes=4", "noises=[0]", "replans=[10]", "mlp_models=0",
         "reset_noise=0", "episode_steps=12", "device=cpu", f"output={tmp_path}"]
    )  # fmt: skip
    cells = json.loads((tmp_path / "results.json").read_text())
    lqr = next(c for c in cells if c["controller"] == "LQR")
    # From rest there is next to nothing to do.
    assert lqr["success"] == [100]
    assert lqr["settle_step"] == 0
    assert lqr["velocity_std"] < 0.02
    config = evaluate_pendulum.Config(reset_noise=0.1, episode_steps=12)
    env = evaluate_pendulum._task(config, 3, 0.05, (), "late")
    assert (env.reset_noise, env.max_episode_steps, env.latency) == (0.1, 12, 1)
    usual, choice = (
        evaluate_pendulum._task(evaluate_pendulum.Config(), 1, 0.05, goals, "nominal")
        for goals in ((), (-1.5, 1.5))
    )
    assert (usual.reset_noise, usual.obstacle[0]) == (0.5, 0)
    assert (choice.reset_noise, choice.obstacle) == (0.05, (0.5, 40))


def test_with_goals_success_is_to_be_out_of_the_way(tmp_path: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "out"
    generate_pendulum_data.main(["task=goals", "trajectories=200", f"output={data}"])
    evaluate_pendulum.main(
        [f"data={data}", "episodes=40", "noises=[0.01]", "replans=[5]", "mlp_models=0",
         "device=cpu", f"output={output}"]
    )  # fmt: skip
    assert (output / "paths.png").stat().st_size > 10_000
    cells = {c["controller"]: c for c in json.loads((output / "results.json").read_text())}
    lqr, linear = cells["LQR"], cells["linear map"]
    assert lqr["success"] == lqr["arrival"] == [100]
    assert cells["LQR, rolled out"]["success"] == [100]
    assert 20 < lqr["right"] < 80
    # The mean of both ways stays in the middle, pole up, and is hit.
    assert linear["success"][0] < 50
    assert linear["arrival"][0] < 20
    assert linear["convergence"][0] > 80


def test_what_follows_the_end_of_an_episode_is_not_counted() -> None:
    env = InvertedPendulumVectorEnv(2, reset_noise=0.0, max_episode_steps=40)
    start = np.array([[0.0, 0.0, 0.0, 0.0], [9.9, 0.0, 9.0, 0.0]])
    run = play(env, StateFeedback(), seed=0, start=start)
    assert run.survived.tolist() == [True, False]
    assert run.steps.tolist() == [40, 1]
    # The second row began anew, at rest, and looks as if it had converged.
    upright = np.abs(run.states[:, :-1, 1]) < 0.02
    assert consecutive(upright)[1] > 0
    assert consecutive(upright & run.during()).tolist() == [0, -1]


def test_interval() -> None:
    low, high = interval([100.0], 300)
    assert (low, high) == (pytest.approx(98.74, abs=0.01), pytest.approx(100.0))
    low, high = interval([90.0, 92.0, 94.0], 300)
    assert (low, high) == (
        pytest.approx(92 - 4.303 * 2 / 3**0.5, abs=0.01),
        pytest.approx(96.97, abs=0.01),
    )


def test_consecutive() -> None:
    mask = np.zeros((3, 30), bool)
    mask[0, 5:15] = mask[1, 5:14] = True
    assert consecutive(mask).tolist() == [5, -1, -1]


@pytest.mark.parametrize(
    ("study", "argument", "message"),
    [
        (generate_pendulum_data, "task=swing", "task"),
        (generate_pendulum_data, "trajectories=3", "trajectories"),
        (generate_pendulum_data, "tokenizer=rough", "tokenizer"),
        (generate_pendulum_data, "pole_mass=[1.2,0.8]", "pole_mass"),
        (generate_pendulum_data, "gear=[1]", "gear"),
        (generate_pendulum_data, "recoveries=2", "recoveries"),
        (generate_pendulum_data, "task=goals trajectories=31", "even"),
        (train_pi0, "data=nowhere", "generate-pendulum-data"),
        (export_pendulum, "seed=0", "nothing to export"),
        (export_pendulum, "pi0=nowhere", "train-pi0"),
        (evaluate_pendulum, "variants=[huge]", "variant"),
        (evaluate_pendulum, "replans=[60]", "replans"),
        (evaluate_pendulum, "episode_steps=5", "episode_steps"),
        (evaluate_pendulum, "data=nowhere", "generate-pendulum-data"),
    ],
)
def test_bad_options(study: Any, argument: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=message):
        study.main([*argument.split(), f"output={tmp_path}"])


def test_missing_ensemble_is_named(data: Path) -> None:
    from steerlab.agents.inverted_pendulum.ensemble import load_members

    with pytest.raises(InputError, match="train-pi0"):
        load_members(data, "tinypi0_", torch.device("cpu"))


@pytest.mark.slow
def test_benchmark(ensemble: Path, tmp_path: Path) -> None:
    from steerlab.experiments import benchmark_pendulum

    pytest.importorskip("mujoco")
    benchmark_pendulum.main(
        ["rows=4", "seconds=0.2", "starts=5", f"pi0={ensemble}", "steps=2", f"output={tmp_path}"]
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["parity"] < 1e-9
    assert results["pi0, onnxruntime, batch 1, ms"] > 0
    assert len(list(tmp_path.glob("tinypi0_*.onnx"))) == 1


@pytest.mark.slow
def test_export_writes_each_member_as_a_file_of_its_own(ensemble: Path, tmp_path: Path) -> None:
    export_pendulum.main([f"pi0={ensemble}", "samples=2", "steps=2", f"output={tmp_path}"])
    files = sorted(tmp_path.glob("*.onnx"))
    weights = sorted((ensemble / "trained_models").iterdir())
    assert [f.stem for f in files] == [w.stem for w in weights]
    model = load_model(weights[1], torch.device("cpu"))
    policy = sampler_of(model, Sampling(samples=2, steps=2))
    state = torch.tensor([[0.1, -0.2, 0.3, 0.0]])
    noise = randomness(policy, 1, np.random.default_rng(3))
    feeds = {"state": state.numpy(), "noise": noise.numpy()}
    with torch.no_grad():
        chunk = policy(state, noise).numpy()
    np.testing.assert_allclose(session(files[1]).run(None, feeds)[0], chunk, atol=1e-5)


@pytest.mark.slow
def test_replicates_share_no_episode_and_no_baseline(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """seed=0,1,2 are three evaluations: other episodes in every row, other weights of the MLP."""
    begun, trained = [], []
    play, fit = evaluate_pendulum.play, evaluate_pendulum.fit

    def watched_play(env: Any, act: Any, seed: int, *rest: Any) -> Any:
        begun.append(set(range(seed, seed + env.num_envs)))
        return play(env, act, seed, *rest)

    def watched_fit(
        model: Any, loss: Any, train: Any, valid: Any, options: Any, output: Any
    ) -> Any:
        trained.append(options.seed)
        return fit(model, loss, train, valid, options, output)

    monkeypatch.setattr(evaluate_pendulum, "play", watched_play)
    monkeypatch.setattr(evaluate_pendulum, "fit", watched_fit)
    for seed in range(3):
        evaluate_pendulum.main(
            [f"data={data}", "episodes=4", "noises=[0]", "replans=[10]", "mlp_models=2",
             "mlp_epochs=1", "device=cpu", f"seed={seed}", f"output={tmp_path / str(seed)}"]
        )  # fmt: skip
    count = len(begun) // 3
    whole = [set.union(*begun[i * count : (i + 1) * count]) for i in range(3)]
    assert all(len(episodes) == 4 for episodes in whole)  # each controller gets the same ones
    assert not whole[0] & whole[1]
    assert not whole[1] & whole[2]
    assert len(set(trained)) == 6
