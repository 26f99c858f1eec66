"""Compare action chunks on the pendulum: pi0, pi0-FAST, PID, LQR, MPC, a linear map and an MLP.

Every controller gets the same starts and the same noise. Success is an episode within the
limits. Convergence is |theta| < 0.02 for 10 steps in sequence, as in the published evaluation.
On data of task=goals an obstacle fills the middle of the rail after 1.6 s, and a cart that is there
then fails. In place of the convergence the table then has the arrival: the share of episodes that
succeed and spend the last 20 steps at a goal. Ensembles have mean and standard deviation over their
models. The interval is that of the mean over models, or of the share of episodes for one controller.

PID and LQR act at every step, whatever the replan interval. "LQR, rolled out" runs LQR in the exact
model and keeps the chunk: no chunk that follows LQR can do better. With goals both go to the
one that is nearest at the start. The linear map and the MLP are trained here, on the same pairs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from tqdm.auto import tqdm

from steerlab.agents.chunk_policies import LinearChunks, MLPChunks, mlp_loss
from steerlab.agents.classical.pendulum import (
    NearestGoal,
    NestedPID,
    PredictiveControl,
    StateFeedback,
    feedback_gain,
    rolled_out,
)
from steerlab.agents.inverted_pendulum.data import Pairs, load_pairs
from steerlab.agents.inverted_pendulum.episodes import (
    GOAL_COST,
    GOAL_START,
    GOALS,
    OBSTACLE,
    Rollouts,
    play,
)
from steerlab.agents.inverted_pendulum.evaluate import Cell, figures_of, rates, write_cells
from steerlab.agents.inverted_pendulum.published import load_published, published_policy
from steerlab.agents.inverted_pendulum.report import plot, plot_paths, table
from steerlab.agents.inverted_pendulum.sampling import Sampling, chunk_policy, members_of
from steerlab.agents.supervised import FitConfig, TensorData, fit
from steerlab.devices import torch_device
from steerlab.envs.inverted_pendulum.dynamics import EPISODE_STEPS
from steerlab.envs.inverted_pendulum.env import InvertedPendulumVectorEnv
from steerlab.errors import InputError, unknown_name
from steerlab.files import atomic_path
from steerlab.options import option
from steerlab.readers.arrays import read_arrays, require
from steerlab.seeds import episode_seed, initial_weights
from steerlab.study import study
from steerlab.types import Array

#: What differs from the plant of the data, by name; each is an argument of the task.
VARIANTS: dict[str, dict[str, Any]] = {
    "nominal": {},
    "heavy": {"pole_mass": 1.5},
    "long": {"pole_length": 1.3},
    "short": {"pole_length": 0.75},
    "weak": {"gear": 0.8},
    "late": {"latency": 1},
    "noisy": {"observation_noise": 0.02},
}


@dataclass(frozen=True)
class Config(Sampling):
    """Options of the evaluation."""

    data: str = option("runs/pendulum_data", "output folder of generate-pendulum-data")
    episodes: int = option(
        300, "episodes per cell of the table, for each controller and each model"
    )
    noises: list[float] = option([0.01, 0.05], "half-widths of the noise on the actions")
    replans: list[int] = option(
        [10, 13, 15], "actions of a chunk that are used before the next chunk"
    )
    variants: list[str] = option(["nominal"], f"plants: {', '.join(VARIANTS)}")
    reset_noise: float | None = option(
        None, "half-width of the start in every component; default 0.5, on data of task=goals 0.05"
    )
    episode_steps: int = option(EPISODE_STEPS, "length of an episode in steps of 0.04 s")
    mlp_models: int = option(10, "MLP baselines to train, up to 1,024; 0 = none")
    mlp_epochs: int = option(30, "passes over the data of an MLP baseline")
    published: str | None = option(
        None, "copy of the published repository, or folder of its checkpoints, to compare with"
    )
    video: bool = option(False, "film one episode of each controller")
    device: str = option("auto", "auto, cpu or cuda")


Controller = Callable[[Array], Array]
#: Gets the replan interval and returns a fresh controller: states (N, 4) to actions (N,).
Maker = Callable[[int], Controller]


def every_step(make: Callable[[], Controller]) -> Maker:
    """Return the maker of a controller that acts anew at every step."""
    return lambda replan: make()


def in_chunks(policy: Controller) -> Maker:
    """Return the maker of a controller that plays ``replan`` actions of each chunk (N, H)."""

    def maker(replan: int) -> Controller:
        chunk: Array = np.zeros((0, 0))
        calls = 0

        def act(states: Array) -> Array:
            nonlocal chunk, calls
            if calls % replan == 0:
                chunk = policy(states)
            calls += 1
            return np.asarray(chunk[:, (calls - 1) % replan])

        return act

    return maker


def run(config: Config, output: Path) -> list[Cell]:
    """Evaluate every controller in every setting; write and print the results."""
    _check(config)
    pairs = load_pairs(config.data, "original")
    goals = GOALS if _has_goals(config.data) else ()
    console = Console()
    makers = dict(controllers(config, pairs, goals, output))
    settings = [(v, n, r) for v in config.variants for n in config.noises for r in config.replans]
    cells = []
    paths: dict[str, Rollouts] = {}
    with tqdm(total=len(settings) * len(makers), unit="cell", desc="evaluating") as bar:
        for variant, noise, replan in settings:
            for name, members in makers.items():
                bar.set_postfix_str(name)
                runs = []
                for member in members:
                    env = _task(config, config.episodes, noise, goals, variant)
                    runs.append(play(env, member(replan), _first_seed(config, config.episodes)))
                paths.setdefault(name, runs[0])
                cells.append(figures_of(runs, goals, (variant, noise, replan, name)))
                bar.update()
    write_cells(cells, output / "results.json")
    for variant in config.variants:
        for key in rates(cells):
            console.print(table([c for c in cells if c.variant == variant], variant, key))
    plot(cells, output / "rates.png")
    pictures = "rates.png"
    if goals:
        plot_paths(paths, goals, output / "paths.png")
        pictures = "rates.png, paths.png (first setting)"
    if config.video:
        film(makers, goals, config, output)
    console.print(f"results.json, {pictures} in {output}")
    return cells


def _task(
    config: Config, rows: int, noise: float, goals: tuple[float, ...], variant: str
) -> InvertedPendulumVectorEnv:
    start = config.reset_noise
    if start is None:
        start = GOAL_START if goals else 0.5
    return InvertedPendulumVectorEnv(
        rows,
        process_noise=noise,
        goals=goals,
        obstacle=OBSTACLE if goals else None,
        reset_noise=start,
        max_episode_steps=config.episode_steps,
        **VARIANTS[variant],
    )


def _first_seed(config: Config, count: int) -> int:
    """Return the first seed of ``count`` episodes; no two runs' ``seed`` have one in common."""
    return episode_seed("evaluation", config.seed, 0, count)


def controllers(
    config: Config, pairs: Pairs, goals: tuple[float, ...], output: Path
) -> Iterator[tuple[str, list[Maker]]]:
    """Yield the name and the members of every controller; one member but for ensembles."""
    device = torch_device(config.device)
    published = load_published(config.published, device) if config.published else {}
    if goals:

        def nearest() -> NearestGoal:
            return NearestGoal(goals, feedback_gain(GOAL_COST))

        horizon = pairs.targets.shape[1]
        yield "LQR", [every_step(nearest)]
        yield "LQR, rolled out", [lambda replan: in_chunks(rolled_out(nearest(), horizon))(replan)]
    else:
        mpc = PredictiveControl(pairs.targets.shape[1])
        yield "PID", [every_step(NestedPID)]
        yield "LQR", [every_step(StateFeedback)]
        yield "MPC", [every_step(lambda: mpc)]
        yield "LQR, rolled out", [in_chunks(rolled_out(StateFeedback(), pairs.targets.shape[1]))]
        yield "MPC, rolled out", [in_chunks(mpc.chunks)]
    linear = LinearChunks(*pairs.part("training"))
    yield "linear map", [in_chunks(chunk_policy(linear, config, device))]
    if config.mlp_models:
        mlps = [
            train_mlp(pairs, config, config.seed << 10 | s, output / f"mlp_{s}")
            for s in range(config.mlp_models)
        ]
        yield "MLP", [in_chunks(chunk_policy(m, config, device)) for m in mlps]
    for kind, members in members_of(config, device).items():
        yield kind, [in_chunks(chunk_policy(m, config, device)) for m in members.values()]
    for kind, foreign in published.items():
        policies = [published_policy(m, config.seed, device) for m in foreign.values()]
        yield f"published {kind}", [in_chunks(p) for p in policies]


def train_mlp(pairs: Pairs, config: Config, seed: int, output: Path) -> MLPChunks:
    """Return the MLP baseline of one seed; one trained before is read back."""
    sets = []
    for part in ("training", "validation"):
        states, chunks = (torch.as_tensor(a, dtype=torch.float32) for a in pairs.part(part))
        sets.append(TensorData(state=states, chunk=chunks))
    with initial_weights(seed):
        model = MLPChunks(pairs.targets.shape[1])
    model.normalizer.adapt(*sets[0].tensors.values())
    options = FitConfig(
        epochs=config.mlp_epochs, batch_size=256, learning_rate=2e-3, seed=seed, device="cpu"
    )
    fit(model, mlp_loss, sets[0], sets[1], options, output)
    return model


def film(
    makers: dict[str, list[Maker]], goals: tuple[float, ...], config: Config, output: Path
) -> None:
    """Write one episode of each controller's first model as an mp4, in the last setting."""
    try:
        import imageio.v2 as imageio
    except ImportError as error:
        raise InputError('video=true needs: pip install "steerlab[video]"') from error
    for name, members in makers.items():
        env = _task(config, 1, config.noises[-1], goals, config.variants[-1])
        played = play(env, members[0](config.replans[-1]), _first_seed(config, 1))
        path = output / f"{name.replace(', ', '_').replace(' ', '_')}.mp4"
        frames: list[Any] = []
        for step, state in enumerate(played.states[0, : played.steps[0] + 1]):
            env.state[0], env.elapsed[0] = state, step
            frames.append(env.render_row(0)[:288, :592])  # sides of whole macro blocks
        with atomic_path(path) as temporary:
            imageio.mimwrite(temporary, frames, fps=25)


def _has_goals(folder: str) -> bool:
    """Return whether the data are of task=goals, from the goals of the experts."""
    path = Path(folder, "trajectories.npz")
    if not path.is_file():
        raise InputError(f"cannot read {str(path)!r}; run generate-pendulum-data")
    (goals,) = require(read_arrays(path), ("goals",), path)
    return bool((goals != 0).any())


def _check(config: Config) -> None:
    for variant in config.variants:
        if variant not in VARIANTS:
            raise unknown_name("variant", variant, VARIANTS)
    for name in ("episodes", "steps", "samples", "sequences", "longest", "mlp_epochs"):
        if getattr(config, name) < 1:
            raise InputError(f"{name}={getattr(config, name)} must be at least 1")
    if not 0 <= config.mlp_models <= 1024:
        raise InputError(f"mlp_models={config.mlp_models} must be in 0..1024")
    for name in ("noises", "replans", "variants"):
        if not getattr(config, name):
            raise InputError(f"{name} is empty; give at least one")
    if config.episode_steps < 10:
        raise InputError(f"episode_steps={config.episode_steps} must be at least 10, to converge")
    if not all(1 <= r <= 50 for r in config.replans):
        raise InputError(f"replans={list(config.replans)} must be in 1..50, a chunk's actions")


main = study(Config, run, resumes=True)
