"""The recipes besides the gradient, and the exact plant in its place."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from steerlab.agents.tinyphysics import cloning, evolution, ppo
from steerlab.agents.tinyphysics.controller import PolicyController
from steerlab.agents.tinyphysics.model import Observation, PolicyShape
from steerlab.agents.tinyphysics.recipe import (
    Bench,
    load_policy,
    processor_time,
    read_seconds,
    save_policy,
)
from steerlab.envs.tinyphysics.dynamics import Simulator, noise_seeds
from steerlab.envs.tinyphysics.reward import official_costs
from steerlab.envs.tinyphysics.rollout import evaluate, rollout
from steerlab.errors import InputError
from steerlab.surrogates.plants.analytic import AnalyticPlant
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.plants.moments import MomentRecorder
from steerlab.surrogates.plants.soft import TokenMoments
from steerlab.surrogates.plants.tokens import BINS
from steerlab.surrogates.segments.synthetic import default_segments

SMALL = PolicyShape(hidden=3, preview=6, history=3)


@pytest.fixture
def bench() -> Bench:
    segments = default_segments()
    return Bench("analytic", segments[:4], segments[4:6], 1, SMALL, 0)


def steering(seen: Observation) -> torch.Tensor:
    """A planner that a policy of any shape can copy: it is linear in what the policy sees."""
    road, steer, lataccel = seen
    wanted = 0.5 * (road[:, 2, 0] - road[:, 0, 1]) + 0.1 * (road[:, 0, 0] - lataccel[:, -1])
    return steer[:, -1] + 0.3 * (wanted - steer[:, -1])


def test_population_costs_are_those_of_each_policy_alone(bench: Bench) -> None:
    policy = bench.first_policy().requires_grad_(False)
    first = parameters_to_vector(policy.parameters())
    rng = torch.Generator().manual_seed(0)
    # So small that the steer hardly answers: rounding cannot grow over the 400 steps.
    weights = 0.01 * torch.randn(3, len(first), generator=rng)
    plant, seeds = AnalyticPlant(), [5, 6, 7, 8]
    found = evolution.population_costs(policy, weights, plant, bench.train, seeds)
    for row in range(3):
        vector_to_parameters(weights[row], policy.parameters())
        simulator = Simulator(plant, bench.train, 4)
        for _ in rollout(simulator, PolicyController(policy), seeds):
            pass
        alone = official_costs(simulator.targets(), simulator.lataccel).total_cost
        assert found[row] == pytest.approx(alone.mean(), rel=1e-3)
    assert len(set(found.round(3))) == 3


def test_output_weights_are_those_that_the_output_is_linear_in(bench: Bench) -> None:
    policy = bench.first_policy().requires_grad_(False)
    place = evolution.searched(policy, "output")
    assert (
        len(place) == (3 + 1) + (policy.first_road.in_features + 1) + policy.first_own.in_features
    )
    first = parameters_to_vector(policy.parameters())
    seen = bench.roads.typical(1)
    step = torch.zeros_like(first)
    step[place] = 0.02 * torch.randn(len(place), generator=torch.Generator().manual_seed(2))
    answers = []
    for scale in (0.0, 1.0, 2.0):
        vector_to_parameters(first + scale * step, policy.parameters())
        answers.append(policy(seen))
    assert float((answers[1] - answers[0]).abs().max()) > 1e-3
    torch.testing.assert_close(
        answers[2] - answers[1], answers[1] - answers[0], atol=1e-5, rtol=1e-3
    )


@pytest.mark.slow
def test_evolution_lowers_the_cost(bench: Bench, tmp_path: Path) -> None:
    config = evolution.EvolutionConfig(
        generations=4, population=8, routes=2, sigma=0.05, weights="all"
    )
    before = bench.selection_costs(bench.first_policy()).mean()
    trained = evolution.train_by_evolution(bench, config, tmp_path)
    assert trained.plant_steps == 4 * 8 * 2 * 400
    assert bench.selection_costs(trained.policies[-1]).mean() < 0.01 * before


@pytest.mark.slow
def test_stopped_evolution_ends_with_the_same_weights(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = evolution.EvolutionConfig(generations=3, population=4, routes=1)
    whole = evolution.train_by_evolution(bench, config, tmp_path / "whole").policies[0]
    calls = 0

    def stopping(*args: object) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return costs(*args)  # type: ignore[arg-type]

    costs = evolution.population_costs
    monkeypatch.setattr(evolution, "population_costs", stopping)
    with pytest.raises(KeyboardInterrupt):
        evolution.train_by_evolution(bench, config, tmp_path / "cut")
    cut = evolution.train_by_evolution(bench, config, tmp_path / "cut").policies[0]
    assert calls == 4  # three generations, the stopped one twice
    one, other = (parameters_to_vector(policy.parameters()) for policy in (whole, cut))
    assert torch.equal(one, other)


def test_labelled_drives_are_what_the_policy_saw_and_what_the_teacher_said(
    bench: Bench, tmp_path: Path
) -> None:
    seen: list[Observation] = []

    def teacher(now: Observation) -> torch.Tensor:
        seen.append(Observation(*(part.clone() for part in now)))
        return steering(now)

    policy = bench.first_policy()
    labelled = cloning.LabelledExploration("analytic", bench.train, 3, 0, teacher, policy)
    labelled.chunk(0, AnalyticPlant()).save(tmp_path / "drives.npz")
    data = cloning.LabelledSteps(cloning.LabelledDrives.load(tmp_path / "drives.npz"), [0, 1, 2])
    assert len(data) == 3 * 400
    assert len(seen) == 400
    for row, step in ((0, 0), (2, 7), (1, 399)):
        batch = data[torch.tensor([400 * row + step])]
        for name in Observation._fields:
            torch.testing.assert_close(batch[name][0], getattr(seen[step], name)[row])
        assert float(batch["label"]) == pytest.approx(float(steering(seen[step])[row]), abs=1e-6)


@pytest.mark.slow
def test_clone_drives_like_its_teacher(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloning, "make_planner", lambda *args: steering)
    config = cloning.CloningConfig(
        rounds=2, rollouts=24, epochs=4, batch_size=128, learning_rate=2e-2, identify=1
    )
    trained = cloning.train_by_cloning(bench, config, tmp_path)
    assert trained.plant_steps == 400 * (1 + 2 * 24)
    teacher, pupil, fresh = (
        evaluate(lambda p=p: PolicyController(p), bench.select, "analytic", tail=False)
        for p in (steering, trained.policies[-1], bench.first_policy())
    )
    apart = np.abs(pupil.steer - teacher.steer)[:, 100:].mean()
    assert apart < 0.2 * np.abs(fresh.steer - teacher.steer)[:, 100:].mean()


def test_task_shows_the_policy_what_the_controller_shows_it(bench: Bench) -> None:
    """A policy in the gymnasium task, asked as PPO asks it, drives as the controller drives it."""
    policy = bench.first_policy().requires_grad_(False)
    for parameter in policy.parameters():  # a policy whose rounding errors do not grow
        parameter.mul_(0.05)
    task = gym.make_vec(
        "TinyPhysics-v0",
        num_envs=2,
        plant="analytic",
        segments=bench.select,
        autoreset_mode=AutoresetMode.DISABLED,
    )
    simulator = task.unwrapped.simulator  # type: ignore[attr-defined]
    flat, _ = task.reset(options={"segment": list(bench.select.names)})
    for _ in range(400):
        noted = ppo.note_warmup(flat, simulator)
        flat, *_ = task.step(policy(ppo.observed(torch.as_tensor(noted)))[:, None].numpy())
    other = Simulator(AnalyticPlant(), bench.select, 2)
    for _ in rollout(other, PolicyController(policy), noise_seeds(bench.select.names, "official")):
        pass
    np.testing.assert_allclose(simulator.steer[:, 100:], other.steer[:, 100:], atol=1e-4)
    assert simulator.steer[:, 100:].std() > 0.01


def test_ppo_moves_the_actor_and_resumes_with_the_same_weights(
    bench: Bench, tmp_path: Path
) -> None:
    config = ppo.PPOConfig(total_steps=1600, num_envs=2, batch_size=400, epochs=1, critic=8)
    trained = ppo.train_by_ppo(bench, config, tmp_path / "whole")
    assert trained.plant_steps == 1600
    one, first = (parameters_to_vector(p.parameters()) for p in (trained.policies[0], bench.first_policy()))  # fmt: skip
    assert not torch.allclose(one, first, atol=1e-4)
    again = ppo.train_by_ppo(bench, config, tmp_path / "whole")  # nothing is left to do
    assert torch.equal(one, parameters_to_vector(again.policies[0].parameters()))


def test_token_moments_are_those_of_the_plant() -> None:
    """The plant's chances through onnxruntime, from tokens; here through torch, from floats."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(450, 570, (5, 20))
    states = rng.normal(0, 0.3, (5, 20, 4)).astype(np.float32)
    states[..., 2] += 20
    recorder = MomentRecorder(load_plant("default", "exact"))
    recorder.logits(states, tokens)
    soft = TokenMoments.of("default")
    lataccel = torch.tensor(BINS[tokens], dtype=torch.float32)
    steer = torch.from_numpy(states[..., 0]).requires_grad_(True)
    road = soft.look_behind(torch.from_numpy(states[..., 1:]))
    mean, deviation = soft.predict(road, steer, lataccel)
    np.testing.assert_allclose(mean.detach(), recorder.mean[0], atol=2e-3)
    np.testing.assert_allclose(deviation.detach(), recorder.deviation[0], rtol=0.05)
    (gradient,) = torch.autograd.grad(mean.sum(), steer)
    assert float(gradient.sum()) > 0.1  # more steer, more lateral acceleration
    with pytest.raises(InputError, match="plant='analytic' has no network"):
        TokenMoments.of("analytic")


def test_policy_is_read_as_it_was_written(bench: Bench, tmp_path: Path) -> None:
    policy = bench.first_policy()
    save_policy(tmp_path / "policy.pt", policy)
    again = load_policy(tmp_path / "policy.pt")
    assert again.shape == SMALL
    assert torch.equal(again(bench.roads.typical(0)), policy(bench.roads.typical(0)))
    with pytest.raises(InputError, match="there is no checkpoint"):
        load_policy(tmp_path / "other.pt")


def test_processor_time_adds_up_over_interruptions(tmp_path: Path) -> None:
    path = tmp_path / "effort.json"
    assert read_seconds(path) == 0

    def compute(stop: bool) -> None:
        with processor_time(path):
            sum(i * i for i in range(3_000_000))
            if stop:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute(stop=True)
    first = read_seconds(path)
    assert first > 0.02
    compute(stop=False)
    assert read_seconds(path) > 1.3 * first


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cloning.check(cloning.CloningConfig(teacher="mpc")), "mpc"),
        (lambda: cloning.check(cloning.CloningConfig(rounds=0)), "cloning.rounds=0"),
        (lambda: evolution.check(evolution.EvolutionConfig(weights="some")), "some"),
        (lambda: evolution.check(evolution.EvolutionConfig(population=3)), "cma.population=3"),
        (lambda: ppo.check(ppo.PPOConfig(total_steps=10), "ppo."), "ppo.total_steps=10"),
        (lambda: ppo.check(ppo.PPOConfig(learning_rate=0.0), "ppo."), "ppo.learning_rate=0.0"),
    ],
)
def test_options_of_recipes_out_of_range(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]


def test_too_many_weights_are_refused(bench: Bench, tmp_path: Path) -> None:
    large = Bench("analytic", bench.train, bench.select, 1, PolicyShape(), 0)
    config = evolution.EvolutionConfig(weights="all")
    with pytest.raises(InputError, match=r"weights are too many for CMA-ES; search cma.weights="):
        evolution.train_by_evolution(large, config, tmp_path)
