"""Play chunks on the pendulum: pi0 and pi0-FAST against PID, LQR, MPC, a linear map and an MLP.

Every controller meets the same starts and the same noise. Success is an episode within the
limits. Convergence is |theta| < 0.02 for 10 steps in sequence, as in the published evaluation.
On data of task=goals something blocks the middle of the rail after 1.6 s, and a cart that is there
then has failed; in place of the convergence stands the share of episodes that succeed and spend
the last 20 steps at a goal. Ensembles give mean and standard deviation over their models; the
interval is that of the mean over models, or of the share of episodes where there is one controller.

PID and LQR act anew at every step, whatever the replan interval. "LQR, rolled out" plays LQR in the exact
model and keeps its chunk: what a chunk that follows LQR can reach at best. With goals both go to the
one that is nearest at the start. Linear map and MLP are trained here, on the same pairs.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student
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
from steerlab.agents.supervised import FitConfig, TensorData, fit
from steerlab.devices import torch_device
from steerlab.envs.inverted_pendulum.dynamics import EPISODE_STEPS, STEP_SECONDS
from steerlab.envs.inverted_pendulum.env import InvertedPendulumVectorEnv
from steerlab.errors import InputError, unknown_name
from steerlab.experiments._pendulum import (
    GOAL_COST,
    GOAL_START,
    GOALS,
    OBSTACLE,
    Array,
    Pairs,
    Run,
    Sampling,
    chunk_policy,
    consecutive,
    load_pairs,
    members_of,
    play,
    reached,
)
from steerlab.files import atomic_path
from steerlab.options import option
from steerlab.readers.arrays import read_arrays, require
from steerlab.seeds import episode_seed, initial_weights
from steerlab.study import study

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

    data: str = option("runs/pendulum_data", "folder that generate-pendulum-data wrote")
    episodes: int = option(300, "episodes a cell, of each controller and each model")
    noises: list[float] = option([0.01, 0.05], "half-widths of the noise on the actions")
    replans: list[int] = option([10, 13, 15], "actions used of a chunk before the next one")
    variants: list[str] = option(["nominal"], f"plants: {', '.join(VARIANTS)}")
    reset_noise: float | None = option(
        None, "half-width of the start in every component; default 0.5, on data of goals 0.05"
    )
    episode_steps: int = option(EPISODE_STEPS, "steps of an episode, 0.04 s each")
    mlp_models: int = option(10, "MLP baselines to train, up to 1,024; 0 = none")
    mlp_epochs: int = option(30, "passes over the data of an MLP baseline")
    video: bool = option(False, "film one episode of each controller")
    device: str = option("auto", "auto, cpu or cuda")


@dataclass(frozen=True)
class Cell:
    """Figures of one controller in one setting.

    Attributes:
        success: Percentages, one a model.
        convergence: Percentages, one a model.
        arrival: Percentages that succeed and end at a goal, one a model; empty without goals.
        settle_step: Mean step at which the pole converges.
        velocity_std: Standard deviation of the cart's velocity, m/s.
        right: Percentage of the successes that end on the right.
    """

    variant: str
    noise: float
    replan: int
    controller: str
    episodes: int
    success: list[float]
    convergence: list[float]
    arrival: list[float]
    settle_step: float
    velocity_std: float
    right: float


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
    paths: dict[str, Run] = {}
    with tqdm(total=len(settings) * len(makers), unit="cell", desc="evaluating") as bar:
        for variant, noise, replan in settings:
            for name, members in makers.items():
                bar.set_postfix_str(name)
                runs = []
                for member in members:
                    env = _task(config, config.episodes, noise, goals, variant)
                    runs.append(play(env, member(replan), _first_seed(config, config.episodes)))
                paths.setdefault(name, runs[0])
                cells.append(_figures(runs, goals, (variant, noise, replan, name)))
                bar.update()
    _write(cells, output)
    for variant in config.variants:
        for key in _rates(cells):
            console.print(_table([c for c in cells if c.variant == variant], variant, key))
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
    device = torch_device(config.device)
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


def interval(percentages: list[float], episodes: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate, in percent.

    Of several models: Student's interval of their mean. Of one: Wilson's interval of a share.
    """
    n, mean = len(percentages), float(np.mean(percentages))
    if n > 1:
        half = student.ppf(0.975, n - 1) * float(np.std(percentages, ddof=1)) / sqrt(n)
        return max(mean - half, 0.0), min(mean + half, 100.0)
    z, p = 1.96, mean / 100
    centre = (p + z * z / (2 * episodes)) / (1 + z * z / episodes)
    half = z * sqrt(p * (1 - p) / episodes + z * z / (4 * episodes**2)) / (1 + z * z / episodes)
    return 100 * (centre - half), 100 * (centre + half)


def _figures(
    runs: list[Run], goals: tuple[float, ...], setting: tuple[str, float, int, str]
) -> Cell:
    success, convergence, arrival, settle, velocity, right = [], [], [], [], [], []
    for played in runs:
        good = played.survived
        upright = np.abs(played.states[:, :-1, 1]) < 0.02
        start = consecutive(upright & played.during())
        success.append(100 * float(good.mean()))
        convergence.append(100 * float((start >= 0).mean()))
        if goals:
            arrival.append(100 * float(reached(played, np.array(goals)).mean()))
        settle += start[start >= 0].tolist()
        if played.survived.any():
            velocity.append(float(played.states[played.survived, :, 2].std()))
        right += (played.states[good, -1, 0] > 0).tolist()
    return Cell(
        *setting,
        episodes=len(runs[0].survived),
        success=success,
        convergence=convergence,
        arrival=arrival,
        settle_step=float(np.mean(settle)) if settle else float("nan"),
        velocity_std=float(np.mean(velocity)) if velocity else float("nan"),
        right=100 * float(np.mean(right)) if right else float("nan"),
    )


def _rates(cells: list[Cell]) -> tuple[str, str]:
    """Return the names of the two rates that are worth a look."""
    return ("success", "arrival" if cells[0].arrival else "convergence")


def _write(cells: list[Cell], output: Path) -> None:
    records = [
        vars(c)
        | {
            "success_interval": interval(c.success, c.episodes),
            "convergence_interval": interval(c.convergence, c.episodes),
            "arrival_interval": interval(c.arrival, c.episodes) if c.arrival else None,
        }
        for c in cells
    ]
    with atomic_path(output / "results.json") as temporary:
        temporary.write_text(json.dumps(records, indent=1), encoding="utf-8")


def _table(cells: list[Cell], variant: str, key: str) -> Table:
    """Return one rate in percent, a column a setting, with its deviation over models."""
    settings = sorted({(c.noise, c.replan) for c in cells})
    title = f"{key} in %, plant: {variant}, noise / replan"
    table = Table(
        title=title, box=None, header_style="bold", padding=(0, 1, 0, 0), min_width=len(title)
    )
    table.add_column("controller", no_wrap=True)
    for noise, replan in settings:
        table.add_column(f"{noise:g} / {replan}", justify="right", no_wrap=True)
    for name in dict.fromkeys(c.controller for c in cells):
        row = {(c.noise, c.replan): getattr(c, key) for c in cells if c.controller == name}
        members = len(row[settings[0]])
        texts = [f"{np.mean(row[s]):.1f}" for s in settings]
        if members > 1:
            texts = [
                f"{text}±{np.std(row[s], ddof=1):.1f}"
                for text, s in zip(texts, settings, strict=True)
            ]
        table.add_row(f"{name} ({members})" if members > 1 else name, *texts)
    return table


def plot(cells: list[Cell], path: Path, most: int = 4) -> None:
    """Draw success and convergence over the replan interval, a panel a plant and noise.

    Success is above the convergence (or arrival) of the same panel, and ``most`` panels are side by side.
    """
    panels = list(dict.fromkeys((c.variant, c.noise) for c in cells))
    wide, high = min(len(panels), most), 2 * -(-len(panels) // most)
    figure = Figure(figsize=(3.6 * wide + 2, 3 * high), layout="constrained")
    grid = figure.subplots(high, wide, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, panel in enumerate(panels):
        block, column = divmod(number, most)
        for row, key in enumerate(_rates(cells)):
            axes = grid[2 * block + row, column]
            axes.set_axis_on()
            _panel(axes, [c for c in cells if (c.variant, c.noise) == panel], key)
            if column == 0:
                axes.set_ylabel(f"{key} in %")
        grid[2 * block, column].set_title(f"{panel[0]}, noise {panel[1]:g}")
        grid[2 * block + 1, column].set_xlabel("replan interval in steps")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _panel(axes: Any, cells: list[Cell], key: str) -> None:
    """Draw one rate of every controller over the replan interval, with its 95 % interval."""
    for i, name in enumerate(dict.fromkeys(c.controller for c in cells)):
        line = sorted((c for c in cells if c.controller == name), key=lambda c: c.replan)
        means = np.array([np.mean(getattr(c, key)) for c in line])
        bounds = np.array([interval(getattr(c, key), c.episodes) for c in line])
        axes.errorbar(
            [c.replan for c in line], means, np.abs(bounds.T - means), capsize=2, marker="o",
            markersize=3, label=name, color=f"C{i}", linewidth=2 if name.startswith("pi0") else 1,
        )  # fmt: skip
    axes.grid(alpha=0.3)


def plot_paths(runs: dict[str, Run], goals: tuple[float, ...], path: Path, most: int = 40) -> None:
    """Draw where the cart goes, a panel a controller: ``most`` episodes, red those that fail."""
    figure = Figure(figsize=(2.6 * len(runs), 3.2), layout="constrained")
    panels = figure.subplots(1, len(runs), sharex=True, sharey=True, squeeze=False)
    width, first = OBSTACLE
    for axes, (name, played) in zip(panels[0], runs.items(), strict=True):
        seconds = np.arange(played.states.shape[1]) * STEP_SECONDS
        axes.fill_between(seconds[first:], -width, width, color="0.85", linewidth=0)
        for goal in goals:
            axes.axhline(goal, color="0.6", linestyle=":", linewidth=1)
        for end, good, states in zip(
            played.steps[:most], played.survived, played.states, strict=False
        ):
            colour = "C0" if good else "C3"
            axes.plot(seconds[: end + 1], states[: end + 1, 0], color=colour, linewidth=0.7)
            if not good:
                axes.plot(seconds[end], states[end, 0], "x", color=colour, markersize=4)
        axes.set_title(name)
        axes.set_xlabel("time in s")
    panels[0, 0].set_ylabel("cart in m")
    panels[0, 0].set_ylim(-2.5, 2.5)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


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
    """Tell whether the data are of task=goals, by what the experts were told."""
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
