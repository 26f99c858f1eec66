"""The policy learns from the windows of shards, in the one supervised loop: it resumes bit for bit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from steerlab.agents.driving import FOLDER, load_driving, load_vision, save_driving
from steerlab.agents.drivingpolicy.checkpoint import policy_part
from steerlab.agents.drivingpolicy.data import FeatureEpisode, Windows
from steerlab.agents.drivingpolicy.evaluate import network_planner, plan_errors
from steerlab.agents.drivingpolicy.losses import policy_loss
from steerlab.agents.drivingpolicy.network import Diffusion, DrivingPolicy, PolicyDesign
from steerlab.agents.supervised import FitConfig, fit
from steerlab.agents.visionnet.features import episode_features
from steerlab.agents.visionnet.network import VisionNet
from steerlab.devices import torch_device
from steerlab.envs.shards.read import Shard
from steerlab.openpilot.contracts import contract
from steerlab.options import option
from steerlab.seeds import initial_weights


@dataclass(frozen=True)
class PolicyOptions:
    """Options of the policy stage of steerlab train-driving."""

    epochs: int = option(40, "passes over the windows")
    batch_size: int = option(64, "windows of 25 frames in each gradient step")
    learning_rate: float = option(1e-3, "largest step size of AdamW; falls along a cosine")
    weight_decay: float = option(1e-3, "decoupled weight decay")
    ema_decay: float = option(0.98, "decay of the averaged weights that are kept; 0 = no average")
    keep: str = option(
        "best", "epoch whose weights are kept: best (lowest validation loss) or last"
    )
    reduced: int = option(128, "width to which each frame's 512 features are reduced")
    hidden: int = option(128, "width of the encoder's state")
    trunk: int = option(128, "width of the hidden layers before the heads")
    encoder: str = option("gru", "encoder of the window of features: gru or attention")
    head: str = option("anchored", "kind of plan head: anchored, mdn, regression or flow")
    mirror: bool = option(True, "learn from the mirror images of all episodes too")


@dataclass(frozen=True)
class PolicyTraining(FitConfig):
    """Settings of :func:`train_policy`."""

    contract: str = option("openpilot-0.10.0", "the release whose rule reads commands from plans")
    design: PolicyDesign = option(PolicyDesign(), "widths and kinds of its parts")


@dataclass(frozen=True)
class DaggerOptions:
    """Options of the rounds in which the pair drives and the teacher labels."""

    rounds: int = option(0, "rounds of driving and learning; 0 = none")
    scenario: tuple[str, ...] = option(
        ("urban_intersection", "suburban_four_way_stop", "highway_follow", "country_road",
         "highway_merge"), "scenarios in which the pair drives, by name or as .yaml files",
    )  # fmt: skip
    map: str | None = option(
        None, "a map of the package or an .xodr file, instead of the scenario's"
    )
    episodes: int = option(4, "episodes of each scenario in a round")
    steps: int = option(500, "length of an episode in steps of 0.05 s")
    teacher: float = option(0.5, "share of the time that the teacher drives in the first round; falls to "
                            "0 in the last")  # fmt: skip
    takeover: float = option(0.6, "distance from the path at which the teacher takes over for 3 s, m; inf "
                             "= never: an episode then ends at a violation")  # fmt: skip
    overspeed: float = option(3.0, "speed above the one planned for bends, stops and the vehicle ahead at "
                              "which the teacher takes over as well, m/s; inf = never")  # fmt: skip
    disturbed: float = option(0.1, "share of the time in which noise is added to the commands")


class StageOptions(Protocol):
    """What the stages behind vision read of a study's options."""

    @property
    def policy(self) -> PolicyOptions:
        """Of the policy and its training."""

    @property
    def diffusion(self) -> Diffusion:
        """Of the plan head."""

    @property
    def dagger(self) -> DaggerOptions:
        """Of the rounds in which the pair drives."""

    @property
    def contract(self) -> str:
        """The release."""

    @property
    def cache(self) -> str:
        """Folder that keeps features, or ''."""

    @property
    def processes(self) -> int:
        """That drive episodes at the same time."""

    @property
    def seed(self) -> int:
        """Of weights, order and noise."""

    @property
    def device(self) -> str:
        """Where it computes."""


def settings_of(
    options: PolicyOptions, diffusion: Diffusion, *, contract: str, seed: int, device: str
) -> PolicyTraining:
    """Return the settings of a policy's training from a study's options."""
    return PolicyTraining(
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        ema_decay=options.ema_decay,
        keep=options.keep,
        seed=seed,
        device=device,
        contract=contract,
        design=PolicyDesign(
            options.reduced, options.hidden, options.trunk, options.encoder, options.head, diffusion
        ),
    )


def new_policy(config: PolicyTraining, train: Windows) -> DrivingPolicy:
    """Return a policy with random weights and the scales and anchors of the training's plans.

    Raises:
        InputError: The contract is unknown, or the design is impossible.
    """
    with initial_weights(config.seed):
        network = DrivingPolicy(contract(config.contract), config.design)
    whole = train.parts["known"].min(1).values > 0
    plans = train.parts["plan"][whole]
    if len(plans) < 100:  # where hardly any label goes to the end, those that end early count too
        plans = train.parts["plan"]
    knots = torch.cat(network.shape.read(plans), dim=-1)
    network.plan_head.adapt(knots.numpy(), config.seed)
    return network


def train_policy(
    config: PolicyTraining, train: Windows, valid: Windows, output: str | Path
) -> DrivingPolicy:
    """Train a policy, or go on where ``output`` has one half trained; return the one of the kept epoch.

    Args:
        config: Options.
        train: Windows to learn from.
        valid: Windows to choose by if ``config.keep`` is ``best``.
        output: Folder of the checkpoints, the log and the curves.

    Raises:
        InputError: An option is out of range, or ``output`` belongs to other options.
    """
    network = new_policy(config, train)

    def metrics(model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, DrivingPolicy)
        found = plan_errors(network_planner(model), valid)
        return {name: value for name, value in found.items() if math.isfinite(value)}

    fit(network, policy_loss, train, valid, config, output, metrics, network.describe())
    return network.cpu().eval()


def seen_by(
    vision: VisionNet, shards: Sequence[Shard], cache: str | Path = "", mirror: bool = False
) -> list[FeatureEpisode]:
    """Return shards with what a vision network makes of their frames.

    Args:
        vision: The network.
        shards: Episodes.
        cache: Folder that keeps features; '' keeps none.
        mirror: Add the mirror images of all episodes.
    """
    sides = (False, True) if mirror else (False,)
    return [
        FeatureEpisode(shard, episode_features(vision, shard, cache, side), side)
        for side in sides for shard in shards
    ]  # fmt: skip


def policy_stage(
    options: StageOptions,
    checkpoint: str | Path,
    train: Sequence[Shard],
    valid: Sequence[Shard],
    output: str | Path,
) -> Path:
    """Train the policy on what the vision network of a checkpoint sees in shards.

    The vision network stays as it is. Training is in ``output/policy`` and goes on where it stopped.

    Args:
        options: Options of the study.
        checkpoint: A checkpoint of a driving pair; its policy, if it has one, is not looked at.
        train: Shards to learn from.
        valid: Shards to choose the best epoch by.
        output: Folder of the run.

    Returns:
        The checkpoint with both networks; its number goes on from that of the vision network.

    Raises:
        InputError: An option is out of range, the checkpoint has no vision network, or there are no
            shards.
    """
    settings = settings_of(
        options.policy, options.diffusion, contract=options.contract, seed=options.seed,
        device=options.device,
    )  # fmt: skip
    start = load_driving(checkpoint)
    vision = load_vision(checkpoint, torch_device(settings.device))
    learned = Windows(seen_by(vision, train, options.cache, options.policy.mirror))
    judged = Windows(seen_by(vision, valid, options.cache))
    network = train_policy(settings, learned, judged, Path(output) / "policy")
    epoch = int(start["told"].get("epoch", 0)) + settings.epochs
    told = {"stage": "policy", "epoch": epoch, "vision": start["told"]}
    path = Path(output) / FOLDER / f"epoch_{epoch:04d}.pt"
    return save_driving(path, start["vision"], policy_part(network), told)
