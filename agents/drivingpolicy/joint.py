"""The joint stage: the policy's loss shapes the features, while the vision heads still learn their labels.

What no head predicts, such as the state of a traffic light, can only get into the features this way. A
step takes random frames, as in the stage before. The older 24 features of a frame's window come from a
store: each frame's features as they were when the frame was last in a batch. The gradient reaches the
vision network through the newest features of the window.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from steerlab.agents.driving import FOLDER, load_driving, load_vision, save_driving
from steerlab.agents.drivingpolicy.data import Windows
from steerlab.agents.drivingpolicy.losses import policy_loss
from steerlab.agents.drivingpolicy.network import Diffusion, DrivingPolicy
from steerlab.agents.drivingpolicy.training import PolicyOptions, new_policy, seen_by, settings_of
from steerlab.agents.training_loop import step_generator
from steerlab.agents.visionnet.training import Follower, VisionTraining, train_vision
from steerlab.devices import torch_device
from steerlab.envs.shards.read import Shard
from steerlab.errors import InputError
from steerlab.options import option
from steerlab.processes import processes


@dataclass(frozen=True)
class JointOptions:
    """Options of the stage in which vision and policy learn together."""

    epochs: int = option(0, "passes over the frames; stage=all leaves the stage out if it is 0")
    learning_rate: float = option(5e-4, "largest step size of AdamW for both networks")
    weight: float = option(1.0, "weight of the policy's loss beside the loss of the vision heads")


class PolicyFollower(Follower):
    """A policy that learns from the features while they change.

    Args:
        policy: The network, whose weights are changed.
        windows: All frames of the training, with the features to begin with.
        weight: Of the loss.
        seed: Of the random draws of the loss.
    """

    store: Tensor

    def __init__(self, policy: DrivingPolicy, windows: Windows, weight: float, seed: int) -> None:
        super().__init__()
        self.policy, self.windows, self.weight, self.seed = policy, windows, weight, seed
        self.register_buffer("store", windows.features.clone())

    def forward(self, numbers: Tensor, features: Tensor, step: int) -> dict[str, Tensor]:
        """Return the policy's losses; see :class:`~steerlab.agents.visionnet.training.Follower`."""
        device, numbers = features.device, numbers.cpu()
        index = self.windows.index[numbers].to(device)
        window = torch.cat([self.store[index[:, :-1]], features.float()[:, None]], dim=1)
        batch = {name: values[numbers].to(device) for name, values in self.windows.parts.items()}
        noise = step_generator("training", self.seed, step, device)
        with torch.autocast(device.type, enabled=False):
            losses = policy_loss(self.policy, batch | {"features": window}, noise)
        self.store[index[:, -1]] = features.detach().float()
        total = self.weight * losses.pop("loss")
        return {f"policy_{name}": value for name, value in losses.items()} | {"loss": total}


def check_joint(options: JointOptions, at_least: int = 0) -> None:
    """Refuse impossible options before the work starts.

    Raises:
        InputError: An option is out of range, or several processes were started.
    """
    if options.epochs < at_least:
        raise InputError(f"joint.epochs={options.epochs} must be at least {at_least}")
    for name in ("learning_rate", "weight"):
        if getattr(options, name) <= 0:
            raise InputError(f"joint.{name}={getattr(options, name)} must be positive")
    if options.epochs and max(processes()) > 1:
        raise InputError(
            "the joint stage needs one process, since all its windows are in one store"
        )


def joint_stage(
    config: VisionTraining,
    options: JointOptions,
    design: tuple[PolicyOptions, Diffusion],
    checkpoint: str | Path,
    train: Sequence[Shard],
    valid: Sequence[Shard],
    output: str | Path,
) -> Path:
    """Train the vision network of a checkpoint on labels and through a policy at the same time.

    The policy begins with random weights and is not kept: the policy stage trains the one that drives,
    on the features that are final then. Training is in ``output/joint`` and goes on where it stopped.

    Args:
        config: Options of the vision network's training; those of this stage replace them.
        options: Options of this stage.
        design: Options of the policy, and of its plan head.
        checkpoint: A checkpoint of a driving pair; its policy is not looked at.
        train: Shards to learn from.
        valid: Shards on which the log's figures are computed.
        output: Folder of the run.

    Returns:
        The checkpoint with the vision network after the last epoch; its number goes on from the other's.

    Raises:
        InputError: The checkpoint has no vision network, or another size or contract.
    """
    start = load_driving(checkpoint)
    vision = load_vision(checkpoint, torch_device(config.device))
    settings = settings_of(
        *design, contract=config.contract, seed=config.seed, device=config.device
    )
    windows = Windows(seen_by(vision, train, config.cache))
    follower = PolicyFollower(new_policy(settings, windows), windows, options.weight, config.seed)
    kept = tuple(name for name in config.dataset.augmentations if name != "mirror")
    training = replace(
        config,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        # The store holds features of pictures that are not mirrored.
        dataset=replace(config.dataset, augmentations=kept),
        optim=replace(config.optim, warmup_epochs=min(config.optim.warmup_epochs, 0.5)),
    )
    folder = Path(output) / "joint"
    train_vision(training, train, valid, folder, start["vision"], follower=follower)
    last = load_driving(folder / FOLDER / f"epoch_{options.epochs:04d}.pt")
    epoch = int(start["told"].get("epoch", 0)) + options.epochs
    told = {**last["told"], "stage": "joint", "epoch": epoch, "vision": start["told"]}
    return save_driving(Path(output) / FOLDER / f"epoch_{epoch:04d}.pt", last["vision"], None, told)
