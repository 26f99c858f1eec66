"""DAgger: the window policy drives, a teacher says what it would have done, the policy learns that.

Every iteration drives fresh roads with the policy of now and learns from just that drive (Ross, Gordon
and Bagnell 2011, without the aggregate: with new drives in plenty, old ones teach little). At the
start the teacher drives part of the time. Where pictures are rendered, driving costs more than learning: there all
drives so far are learned from.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel

from steerlab.agents.checkpoint import fitting, load_checkpoint, save_checkpoint
from steerlab.agents.classical.preview import PreviewDriver
from steerlab.agents.policynet.driver import torch_driver
from steerlab.agents.policynet.evaluate import pictures
from steerlab.agents.policynet.losses import (
    SCALE,
    STEER_KNEE,
    WINDOW,
    imitation_loss,
    plan_error,
    random_windows,
)
from steerlab.agents.policynet.model import VISION, PolicyNet, PolicySize, policy_from
from steerlab.agents.policynet.rollout import BehaviorMix, Drives, Rollout, Teacher, collect
from steerlab.agents.policynet.task import KINEMATIC, Task
from steerlab.agents.recurrent_ppo.driver import PolicyDriver
from steerlab.agents.recurrent_ppo.train import load_driver
from steerlab.agents.run_log import RunLog
from steerlab.agents.training_loop import (
    Stateful,
    TrainingLoop,
    moving_average,
    set_rate,
    step_generator,
)
from steerlab.devices import torch_device
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.randomization import Ranges
from steerlab.errors import InputError
from steerlab.film import FRAME_RATE
from steerlab.openpilot.contracts import contract
from steerlab.openpilot.engines import Network
from steerlab.options import option
from steerlab.seeds import FILM, episode_seed, initial_weights

POLICY = "policy_model.pth"
#: Kinds of the checkpoints of this training, and of ``policy_model.pth``.
KIND, NETWORK = "imitation by PolicyNet", "a PolicyNet"
#: Share of the time that the teacher drives in the first iterations.
TEACHER_SHARES = (1.0, 1.0, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1)


@dataclass(frozen=True)
class ImitationConfig:
    """Options of :func:`train_imitation`; a study's options inherit from it."""

    contract: str = option("openpilot-0.10.0", "the release that the policy is for")
    total_steps: int = option(768_000, "steps of 0.05 s that are driven in all")
    num_envs: int = option(128, "rows of the task")
    steps: int = option(300, "steps of each row in an iteration")
    epochs: float = option(4.0, "how often an iteration goes over the frames of its drive")
    batch_size: int = option(64, "windows of 25 frames a gradient step")
    learning_rate: float = option(1e-3, "largest step size of AdamW; falls along a cosine")
    reduced: int = option(128, "values to which a frame's features are reduced")
    hidden: int = option(128, "units of the GRU")
    trunk: int = option(128, "units of the layers before the heads")
    noise: float = option(0.5, "share of the time that the commands are disturbed, at first")
    calm: float = option(0.1, "the same at the end: no history shows a coming disturbance")
    hard: float = option(
        0.5,
        "share of DAgger's drives in hard conditions: long delay, noisy perception, mostly fast",
    )
    steer_weight: float = option(SCALE["steer"], "weight of the steering in DAgger's loss")
    steer_knee: float = option(
        STEER_KNEE, "error of the steering, in units of 3.6 m/s^2, above which DAgger's loss is linear; a "
        "smaller one makes small errors weigh more",
    )  # fmt: skip
    lateral: float = option(1.7, "m/s^2 within which the preview teacher takes bends; it must not "
                            "use its knowledge of the grip, which the policy cannot see")  # fmt: skip
    teacher: str = option("preview", "who says what is right: preview (controller with the true "
                          "state), or a folder of steerlab train-kinematic-driver")  # fmt: skip
    film: int = option(
        300, "steps of the episode that is filmed for TensorBoard at the end; 0 = none"
    )
    seed: int = option(0, "seed of weights, roads and batches")
    device: str = option("auto", "auto, cpu or cuda: where it learns; the cars drive on the CPU")


#: Makes the teacher for an environment.
MakeTeacher = Callable[[KinematicDriverVectorEnv], Teacher]


def preview_teacher(config: ImitationConfig, task: Task = KINEMATIC) -> MakeTeacher:
    """Return the preview LQR, which sees the true state and path, as a teacher."""
    lateral = config.lateral if task.cautious else None

    def make(env: KinematicDriverVectorEnv) -> PreviewDriver:
        rule = contract(config.contract).command
        return PreviewDriver(env, lateral, (rule.lat_smooth_s, rule.long_smooth_s))

    return make


def choose_teacher(config: ImitationConfig, task: Task = KINEMATIC) -> MakeTeacher:
    """Return the teacher that is asked for.

    A trained recurrent driver carries its own state along the student's trajectories. It reckons with
    no smoothing before its own commands, since none was there when it learned.

    Raises:
        InputError: There is no such teacher.
    """
    if config.teacher == "preview":
        return preview_teacher(config, task)
    if not Path(config.teacher).is_dir():
        raise InputError(
            f"teacher={config.teacher!r} is neither preview nor a folder of steerlab "
            "train-kinematic-driver"
        )
    model, threshold = load_driver(config.teacher)
    return lambda env: PolicyDriver(model, env.num_envs, threshold)


def train_imitation(
    config: ImitationConfig,
    output: str | Path,
    make_teacher: MakeTeacher | None = None,
    ranges: Ranges | None = None,
    vision: Network | None = None,
    start: str | Path | None = None,
    task: Task = KINEMATIC,
) -> PolicyNet:
    """Train, or go on training, and return the policy with averaged weights.

    Writes ``last.pt`` after every iteration, TensorBoard events and ``metrics.jsonl``, and at the end
    ``policy_model.pth``. An iteration depends on the weights and on its number only, so a run that
    was stopped ends with the numbers of one that was not.

    Args:
        config: Options.
        output: Folder of the results.
        make_teacher: Who teaches; by default whom ``config.teacher`` names.
        ranges: Ranges of the task in every drive; by default its own, and the task's hard ones in some.
        vision: A vision network that looks at the rendered road and makes the features.
        start: ``policy_model.pth`` to begin with; None begins with random weights, and the teacher
            drives part of the first iterations.
        task: What is driven.

    Raises:
        InputError: An option is out of range, or ``start`` is for another contract.
    """
    iterations = check(config)
    device = torch_device(config.device)
    network = first_policy(config, start, vision, task).to(device)
    make_teacher = make_teacher or choose_teacher(config, task)
    average = moving_average(network, 0.99)
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=1e-4)
    parts: dict[str, Stateful] = {"model": network, "average": average, "optimizer": optimizer}
    so_far = Drives()
    if task.aggregates:
        parts["drives"] = so_far
    settings = asdict(config)
    drives = TrainingLoop(output, KIND, iterations, parts, settings, unit="drive", device=device)
    with drives as loop:
        for iteration in loop:
            hard = ranges is None and _is_hard(iteration, config.hard)
            mixture = _mixture(config, iteration, iterations, bool(start))
            drive = _drive(
                config, network, iteration, make_teacher, mixture, task.hard if hard else ranges,
                vision, task,
            )  # fmt: skip
            drive = so_far.add(drive) if task.aggregates else drive
            generator = step_generator("training", config.seed, iteration)
            means = _learn(network, average, optimizer, drive, config, iteration, generator)
            scalars = {f"loss/{k}": v for k, v in means.items()}
            scalars |= {f"{'hard' if hard else 'drive'}/{k}": v for k, v in drive.figures.items()}
            scalars |= {f"plan/{k}": v for k, v in plan_error(network, drive, generator).items()}
            loop.done(
                scalars | {"drive/teacher": mixture.teacher},
                {"loss": f"{means['loss']:.3f}", "cte": f"{drive.figures['cte_mean']:.2f}"},
            )
        policy = average.module.cpu()
        return finish(policy, loop.output, loop.log, iterations, config.film, vision, task)


def _mixture(
    config: ImitationConfig, iteration: int, iterations: int, started: bool
) -> BehaviorMix:
    """Return who drives in an iteration: the teacher only while a network with random weights is new."""
    shares = () if started else TEACHER_SHARES[iteration : iteration + 1]
    noise = config.noise + (config.calm - config.noise) * iteration / iterations
    return BehaviorMix(teacher=shares[0] if shares else 0.0, noise=noise)


def _learn(
    network: PolicyNet, average: AveragedModel, optimizer: torch.optim.Optimizer, drive: Rollout,
    config: ImitationConfig, iteration: int, generator: torch.Generator,
) -> dict[str, float]:  # fmt: skip
    """Make the gradient steps of an iteration; return the mean losses."""
    updates = _updates(config)
    total = updates * check(config)
    means: dict[str, float] = {}
    for update in range(iteration * updates, (iteration + 1) * updates):
        set_rate(optimizer, _rate(config.learning_rate, update, total))
        losses = _update(network, optimizer, drive, config, generator)
        average.update_parameters(network)
        means = {k: means.get(k, 0.0) + v / updates for k, v in losses.items()}
    return means


def first_policy(
    config: ImitationConfig, start: str | Path | None, vision: Network | None, task: Task
) -> PolicyNet:
    """Return the policy that a training begins with.

    Raises:
        InputError: ``start`` is no policy, or one for another contract.
    """
    network = load_policy(start) if start else new_policy(config)
    if network.contract.id != config.contract:
        raise InputError(
            f"start={str(start)!r} was trained for {network.contract.id}; give contract= of that name"
        )
    network.features = VISION if vision else network.features
    network.task = task.name
    return network


def _drive(
    config: ImitationConfig,
    network: PolicyNet,
    iteration: int,
    make_teacher: MakeTeacher,
    mixture: BehaviorMix,
    ranges: Ranges | None,
    vision: Network | None,
    task: Task,
) -> Rollout:
    """Return the drive of an iteration, on roads of its own."""
    env = task.env(config.num_envs, iteration, ranges=ranges, autoreset_mode="Disabled")
    first_episode = iteration * config.num_envs
    seed = episode_seed("training", config.seed, first_episode, config.num_envs)
    network.eval()
    teacher = make_teacher(env)
    drive = collect(on_cpu(network), env, teacher, config.steps, seed, mixture, vision)
    network.train()
    return drive.to(torch_device(config.device))


def _updates(config: ImitationConfig) -> int:
    """Return the gradient steps of an iteration."""
    frames = config.num_envs * config.steps
    return max(1, round(config.epochs * frames / (WINDOW * config.batch_size)))


def _rate(largest: float, update: int, updates: int) -> float:
    """Return the learning rate of a gradient step: a short rise, then half a cosine."""
    cosine = 0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * (update / updates)))
    return float(largest * min(1.0, (update + 1) / 100) * cosine)


def on_cpu(network: PolicyNet) -> PolicyNet:
    """Return the network itself if it is on the CPU, where the cars drive, else a copy there."""
    return network if next(network.parameters()).device.type == "cpu" else deepcopy(network).cpu()


def _is_hard(iteration: int, share: float) -> bool:
    """Tell whether this drive is one of the ``share`` in hard conditions, evenly spread."""
    return int((iteration + 1) * share) > int(iteration * share)


def new_policy(config: ImitationConfig) -> PolicyNet:
    """Return a policy with random weights."""
    size = PolicySize(config.reduced, config.hidden, config.trunk)
    with initial_weights(config.seed):
        return PolicyNet(config.contract, size)


def finish(
    policy: Any, output: Path, log: RunLog, step: int, film: int, vision: Network | None, task: Task
) -> PolicyNet:
    """Write ``policy_model.pth`` and film an episode; return the policy."""
    save_policy(output / POLICY, policy)
    policy.eval()
    if film:
        env = task.env(1, max_episode_steps=film, render_mode="rgb_array")
        seen = pictures(torch_driver(policy, vision), (FILM,), env)
        log.film(step, "drive/film", seen, FRAME_RATE)
    return policy


def _update(
    network: PolicyNet,
    optimizer: torch.optim.Optimizer,
    drive: Rollout,
    config: ImitationConfig,
    generator: torch.Generator,
) -> dict[str, float]:
    """Take one gradient step on random windows of the drive; return the losses."""
    ends, who = random_windows(drive, config.batch_size, generator)
    losses = imitation_loss(
        network, drive, ends, who, generator, config.steer_weight, config.steer_knee
    )
    optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return {name: float(value.detach()) for name, value in losses.items()}


def save_policy(path: str | Path, policy: PolicyNet) -> None:
    """Write a ``policy_model.pth``."""
    save_checkpoint(path, NETWORK, {"model": policy.state_dict(), "describe": policy.describe()})


def load_policy(path: str | Path) -> PolicyNet:
    """Return the policy of a ``policy_model.pth``.

    Raises:
        InputError: The file is absent or no such checkpoint.
    """
    state = load_checkpoint(path, NETWORK)
    with fitting(path, NETWORK):
        return policy_from(state["describe"], state["model"])


def check_shared(config: ImitationConfig) -> None:
    """Refuse what is wrong with the options that all recipes share.

    Raises:
        InputError: An option is out of range.
    """
    if "driving_policy" not in contract(config.contract).model_names:
        raise InputError(
            f"contract={config.contract} joins vision and policy in one network; train for one of "
            "the split contracts (steerlab.agents.policynet.model.Supercombo joins them)"
        )
    torch_device(config.device)
    for name in ("reduced", "hidden", "trunk"):
        if getattr(config, name) < 1:
            raise InputError(f"{name}={getattr(config, name)} must be at least 1")
    if config.film and not 10 <= config.film <= 4000:
        raise InputError(f"film={config.film} must be 0, or in 10..4000 steps")
    if not 0 <= config.seed < 100:
        raise InputError(f"seed={config.seed} must be in 0..99: beyond lie the held-out episodes")


def check(config: ImitationConfig) -> int:
    """Return the number of iterations.

    Raises:
        InputError: An option is out of range.
    """
    check_shared(config)
    for name in ("num_envs", "steps", "batch_size"):
        if getattr(config, name) < 1:
            raise InputError(f"{name}={getattr(config, name)} must be at least 1")
    if config.epochs <= 0 or config.learning_rate <= 0:
        raise InputError("epochs and learning_rate must be positive")
    for name in ("steer_weight", "steer_knee"):
        if not 0 < getattr(config, name) < np.inf:
            raise InputError(f"{name}={getattr(config, name)} must be positive and finite")
    for name in ("noise", "calm", "hard"):
        if not 0 <= getattr(config, name) <= 1:
            raise InputError(f"{name}={getattr(config, name)} must be in [0, 1]")
    if not 0.5 <= config.lateral <= 3.0:
        raise InputError(f"lateral={config.lateral} must be in [0.5, 3] m/s^2")
    iterations = config.total_steps // (config.num_envs * config.steps)
    if iterations < 1:
        raise InputError(
            f"total_steps={config.total_steps} is less than one iteration of num_envs * steps = "
            f"{config.num_envs * config.steps}; raise it"
        )
    return iterations
