"""The vision network learns from labels: epochs over shards in the one resumable loop.

Devices, precision and several processes are Lightning Fabric's business. A step's learning rate, order
and noise follow from its number, so a run that was stopped anywhere goes on as if it had not been.
"""

import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from steerlab.agents.driving import FOLDER, Part, save_driving, vision_part
from steerlab.agents.training_loop import LAST, TrainingLoop, moving_average, set_rate
from steerlab.agents.visionnet.augment import AUGMENTATIONS
from steerlab.agents.visionnet.data import (
    Batch,
    EpochBatches,
    FramePairs,
    in_order,
    loader,
)
from steerlab.agents.visionnet.losses import LIKELIHOODS, vision_losses
from steerlab.agents.visionnet.metrics import NETWORK, judge, relative_error
from steerlab.agents.visionnet.network import SIZES, VisionNet
from steerlab.agents.visionnet.pictures import compare_pictures
from steerlab.agents.visionnet.units import label_units
from steerlab.devices import torch_device
from steerlab.envs.shards.read import Shard
from steerlab.errors import InputError, unknown_name
from steerlab.options import option
from steerlab.processes import process_rank, processes
from steerlab.seeds import initial_weights

if TYPE_CHECKING:
    from lightning_fabric import Fabric

KIND = "vision training"
SCHEDULERS = ("cosine", "linear", "constant")
PRECISIONS = {"none": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
#: Options that may differ when a run goes on.
_FREE = ("num_workers", "val_batch_size", "cache")
_LAST_RATE = 0.01  # of the largest one, at the end of cosine and linear
_SHOWN = 3  # frames that TensorBoard shows after each epoch


@dataclass(frozen=True)
class DatasetOptions:
    """Options on the frames."""

    train_path: str = option("", "folder of training shards, made by steerlab collect")
    val_path: str = option("", "folder of validation shards, which select the best epoch; '' = some of "
                           "the training episodes")  # fmt: skip
    test_path: str = option("", "folder of test shards, evaluated once, at the end")
    val_share: float = option(
        0.1, "share of the training episodes kept for validation if val_path= is empty"
    )
    val_maps: tuple[str, ...] = option(
        (), "maps whose episodes are kept for validation, in place of a share"
    )
    augmentations: tuple[str, ...] = option(AUGMENTATIONS, "random changes of training frames: "
                                            "photometric, noise, temporal, mirror")  # fmt: skip


@dataclass(frozen=True)
class OptimOptions:
    """Options on the learning rate over time."""

    scheduler: str = option("cosine", "schedule of the learning rate: cosine, linear or constant")
    warmup_epochs: float = option(0.5, "epochs over which the learning rate rises linearly")


@dataclass(frozen=True)
class VisionTraining:
    """Options of :func:`train_vision`; a study's options inherit from it."""

    size: str = option("tiny", "vision network: tiny (trains on a processor), small or base")
    contract: str = option("openpilot-0.10.0", "the release whose output heads are trained")
    likelihood: str = option(
        "laplace", "density in the loss of heads with a mean and a deviation: laplace or gaussian"
    )
    epochs: int = option(20, "passes over the frames")
    batch_size: int = option(32, "frame pairs in each gradient step of each process")
    val_batch_size: int = option(32, "frame pairs at once in validation")
    learning_rate: float = option(2e-3, "largest step size of AdamW")
    weight_decay: float = option(1e-2, "decoupled weight decay")
    gradient_clip: float = option(5.0, "largest norm of the gradient; 0 = no limit")
    ema_decay: float = option(0.99, "decay of the averaged weights that are kept; 0 = no average")
    num_workers: int = option(0, "processes that read frames; 0 = the training process itself")
    cache: str = option("", "folder that keeps decoded frames, 0.4 MB each, and features: both are computed "
                        "once; '' = none")  # fmt: skip
    log_interval: int = option(20, "gradient steps between two lines of the log")
    checkpoint_interval: int = option(
        100, "gradient steps between two saved states, from which a run can continue"
    )
    mixed_precision: str = option("none", "none, bf16 or fp16")
    device: str = option("auto", "auto, cpu or cuda; several processes: start it with torchrun")
    seed: int = option(0, "seed of weights, order and augmentation")
    dataset: DatasetOptions = option(DatasetOptions(), "")
    optim: OptimOptions = option(OptimOptions(), "")


class Follower(nn.Module):
    """What learns from the features beside the heads; its gradient reaches the vision network."""

    def forward(self, numbers: Tensor, features: Tensor, step: int) -> dict[str, Tensor]:
        """Return losses to report, and ``loss``, which is added to that of the heads.

        Args:
            numbers: Of the frames among all frames of the training, (B,).
            features: Of these frames, (B, 512).
            step: Number of the step, from which all random draws follow.
        """
        raise NotImplementedError


@dataclass
class _Learning:
    """What a run consists of."""

    config: VisionTraining
    fabric: "Fabric"
    network: VisionNet
    learner: Any  # of Fabric, around the network and its losses
    optimizer: Any
    average: AveragedModel | None
    follower: Follower | None
    batches: EpochBatches
    frames: DataLoader[Any]
    valid: FramePairs
    valid_frames: DataLoader[Any]

    @property
    def parts(self) -> dict[str, Any]:
        """What has a state, by name."""
        there = {"average": self.average, "follower": self.follower}
        return {
            "network": self.network, "optimizer": self.optimizer.optimizer,
            **{name: part for name, part in there.items() if part is not None},
        }  # fmt: skip

    @property
    def kept(self) -> VisionNet:
        """The network whose weights are kept."""
        kept = self.average.module if self.average else self.network
        assert isinstance(kept, VisionNet)
        return kept


class _Learner(nn.Module):
    """A network with its losses, so that one call is a step's whole forward pass."""

    def __init__(self, network: VisionNet, likelihood: str, follower: Follower | None) -> None:
        super().__init__()
        self.network, self.likelihood, self.follower = network, likelihood, follower

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        said = self.network.tensors(batch["img"], batch["big_img"])
        losses = vision_losses(self.network.model, said, batch, self.network.units, self.likelihood)
        if self.follower is not None:
            more = self.follower(batch["number"], said["hidden_state"], step)
            losses["loss"] = losses["loss"] + more.pop("loss")
            losses |= more
        return losses


def train_vision(
    config: VisionTraining,
    train: Sequence[Shard],
    valid: Sequence[Shard],
    output: str | Path,
    start: Part | None = None,
    policy: Part | None = None,
    follower: Follower | None = None,
) -> Path:
    """Train a vision network on shards, or go on where a run in ``output`` was stopped.

    Writes ``artifacts/checkpoints/epoch_NNNN.pt`` after each epoch (of averaged weights, if there are
    any), ``last.pt`` every ``checkpoint_interval`` steps, the log, and pictures for TensorBoard.

    Args:
        config: Options.
        train: Episodes to learn from.
        valid: Episodes by which the best epoch is chosen.
        output: Folder of the run.
        start: Vision part of a checkpoint to begin with, of the same size and contract.
        policy: Policy part, which the checkpoints carry on as it is.
        follower: Learns from the features at the same time; its state is kept for a resume only.

    Returns:
        The checkpoint of the epoch with the lowest :func:`~.metrics.relative_error` in validation.

    Raises:
        InputError: An option is out of range, there are too few frames, or ``output`` belongs to
            other options.
    """
    check(config)
    fabric = _fabric(config)
    run = _begin(config, fabric, train, valid, start, follower)
    total, per_epoch = config.epochs * len(run.batches), len(run.batches)
    with _own_folder(fabric, Path(output)) as folder:
        loop = TrainingLoop(
            folder, KIND, total, run.parts, _settings(config), unit="step", device=fabric.device
        )
        sums = {n: torch.tensor(v) for n, v in loop.values.get("sums", {}).items()}
        counted = loop.values.get("counted", 0)
        best = {n: loop.values.get(n, v) for n, v in (("error", math.inf), ("epoch", 0))}
        with loop:
            for step, batch in zip(loop, _stream(run, loop.first), strict=False):
                losses = _step(run, batch, step, rate(config, step, total, per_epoch))
                sums = {n: sums.get(n, 0.0) + v.detach().cpu() for n, v in losses.items()}
                counted += 1
                if (step + 1) % config.log_interval == 0 or step + 1 == total:
                    loop.record(step, {f"train/{n}": v / counted for n, v in sums.items()})
                    sums, counted = {}, 0
                epoch_ends = (step + 1) % per_epoch == 0
                if epoch_ends:
                    best = _end_epoch(run, loop, step, best, policy)
                if epoch_ends or (step + 1) % config.checkpoint_interval == 0:
                    told = {n: float(v) for n, v in sums.items()}
                    loop.save(step, sums=told, counted=counted, **best)
                loop.advance(1, {"loss": f"{float(losses['loss'].detach()):.3g}"})
    return Path(output, FOLDER, f"epoch_{best['epoch']:04d}.pt")


def check(config: VisionTraining) -> None:
    """Raise an InputError if an option is out of range."""
    for name, known in (
        ("size", SIZES), ("likelihood", LIKELIHOODS), ("mixed_precision", PRECISIONS)
    ):  # fmt: skip
        if getattr(config, name) not in known:
            raise unknown_name(name, getattr(config, name), known)
    if config.optim.scheduler not in SCHEDULERS:
        raise unknown_name("optim.scheduler", config.optim.scheduler, SCHEDULERS)
    least = {"epochs": 1, "batch_size": 2, "val_batch_size": 1, "num_workers": 0, "log_interval": 1,
             "checkpoint_interval": 1, "weight_decay": 0, "gradient_clip": 0}  # fmt: skip
    for name, value in least.items():
        if getattr(config, name) < value:
            raise InputError(f"{name}={getattr(config, name)} must be at least {value}")
    if config.learning_rate <= 0:
        raise InputError(f"learning_rate={config.learning_rate} must be positive")
    if not 0 <= config.ema_decay < 1:
        raise InputError(f"ema_decay={config.ema_decay} must be in [0, 1)")
    if not 0 <= config.optim.warmup_epochs < config.epochs:
        raise InputError(
            f"optim.warmup_epochs={config.optim.warmup_epochs} must be in [0, {config.epochs})"
        )
    if config.mixed_precision == "fp16" and torch_device(config.device).type == "cpu":
        raise InputError("mixed_precision=fp16 needs a GPU; use bf16 or none")


def rate(config: VisionTraining, step: int, total: int, per_epoch: int) -> float:
    """Return the learning rate of a step, which follows from its number alone."""
    warm = config.optim.warmup_epochs * per_epoch
    if step < warm:
        return config.learning_rate * (step + 1) / (warm + 1)
    share = (step - warm) / max(total - warm, 1)
    left = {
        "cosine": 0.5 * (1.0 + math.cos(math.pi * share)), "linear": 1.0 - share, "constant": 1.0
    }[config.optim.scheduler]  # fmt: skip
    return config.learning_rate * (_LAST_RATE + (1.0 - _LAST_RATE) * left)


def _settings(config: VisionTraining) -> dict[str, Any]:
    """Return the options on which the numbers of a run depend."""
    names = [field.name for field in fields(VisionTraining) if field.name not in _FREE]
    return {name: value for name, value in asdict(config).items() if name in names}


def _fabric(config: VisionTraining) -> "Fabric":
    """Return Fabric, started for as many processes as ``torchrun`` made.

    Raises:
        InputError: It is not installed.
    """
    if find_spec("lightning_fabric") is None:
        raise InputError("training needs Lightning Fabric: pip install 'steerlab[train]'")
    from lightning_fabric import Fabric

    here, nodes = processes()
    fabric = Fabric(
        accelerator=torch_device(config.device).type,
        devices=here,
        num_nodes=nodes,
        strategy="ddp" if here * nodes > 1 else "auto",
        precision=PRECISIONS[config.mixed_precision],  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def _begin(
    config: VisionTraining,
    fabric: "Fabric",
    train: Sequence[Shard],
    valid: Sequence[Shard],
    start: Part | None,
    follower: Follower | None,
) -> _Learning:
    """Return what a run consists of, as it is before the first step."""
    with initial_weights(config.seed):
        network = VisionNet(config.size, config.contract)
    if start is None:
        network.set_units(*label_units(train, network.model))
    else:
        _take(network, start)
    pairs = FramePairs(train, config.dataset.augmentations, config.seed, config.cache)
    batches = EpochBatches(
        len(pairs), config.batch_size, config.seed, fabric.global_rank, fabric.world_size
    )
    learning = _Learner(network, config.likelihood, follower)
    optimizer = torch.optim.AdamW(
        learning.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    learner, wrapped = fabric.setup(learning, optimizer)
    average = moving_average(network, config.ema_decay) if config.ema_decay else None
    pin, held_out = fabric.device.type == "cuda", FramePairs(valid)
    return _Learning(
        config, fabric, network, learner, wrapped, average, follower, batches,
        loader(pairs, batches, config.num_workers, pin), held_out,
        loader(held_out, in_order(held_out, config.val_batch_size), config.num_workers, pin),
    )  # fmt: skip


def _take(network: VisionNet, start: Part) -> None:
    """Begin with the weights of a checkpoint.

    Raises:
        InputError: They are another size's or another contract's.
    """
    given, wanted = ((p["size"], p["contract"]) for p in (start, vision_part(network)))
    if given != wanted:
        raise InputError(
            f"checkpoint= holds a vision network of size={given[0]} for contract={given[1]}, not of "
            f"size={wanted[0]} for contract={wanted[1]}; give those options, or another checkpoint"
        )
    network.load_state_dict(start["state"])


@contextmanager
def _own_folder(fabric: "Fabric", output: Path) -> Iterator[Path]:
    """Yield the folder of the run for the first process, a copy of its state for the others."""
    fabric.barrier()  # until the first one has put its folder in order
    if process_rank() == 0:
        yield output
        return
    with tempfile.TemporaryDirectory() as folder:
        if (output / LAST).exists():
            shutil.copy(output / LAST, folder)
        yield Path(folder)


def _stream(run: _Learning, first: int) -> Iterator[Batch]:
    """Yield the batches of all epochs from step ``first`` on."""
    begun, run.batches.first = divmod(first, len(run.batches))
    for epoch in range(begun, run.config.epochs):
        run.batches.epoch = epoch
        for batch in run.frames:
            yield run.fabric.to_device(batch)


def _step(run: _Learning, batch: Batch, step: int, rate: float) -> dict[str, Tensor]:
    """Take one step of the optimiser; return the losses before it."""
    run.learner.train()
    set_rate(run.optimizer.optimizer, rate)
    losses: dict[str, Tensor] = run.learner(batch, step)
    run.fabric.backward(losses["loss"])
    if run.config.gradient_clip:
        run.fabric.clip_gradients(
            run.learner, run.optimizer, max_norm=run.config.gradient_clip,
            error_if_nonfinite=False,
        )  # fmt: skip
    run.optimizer.step()
    run.optimizer.zero_grad()
    if run.average:
        run.average.update_parameters(run.network)
    return losses


def _end_epoch(
    run: _Learning, loop: TrainingLoop, step: int, best: dict[str, Any], policy: Part | None
) -> dict[str, Any]:
    """Validate, write the epoch's checkpoint, show pictures; return what is best now."""
    epoch = (step + 1) // len(run.batches)
    if process_rank() == 0:
        results = judge(run.kept, run.valid_frames, run.config.likelihood)
        error, found = relative_error(results), results[NETWORK]
        found["relative_error"] = error
        told = {n: v for n, v in found.items() if math.isfinite(v)}
        loop.record(step, {f"valid/{name}": value for name, value in told.items()})
        shown = torch.linspace(0, len(run.valid) - 1, _SHOWN + 2).long()[1:-1].tolist()
        loop.log.picture(
            step, "labels (left), network (right)", compare_pictures(run.kept, run.valid, shown)
        )
        tqdm.write(
            f"epoch {epoch}: errors {error:.3f} of the training mean's, lane lines 0-30 m "
            f"{found['lane_error']:.3f} m, lead {found['lead_error']:.1f} m; loss {found['loss']:.4g}"
        )
        path = loop.output / FOLDER / f"epoch_{epoch:04d}.pt"
        kept = {"stage": "vision", "epoch": epoch, **{f"valid_{n}": v for n, v in told.items()}}
        save_driving(path, vision_part(run.network, run.kept), policy, kept)
        if error < best["error"] and math.isfinite(found["loss"]):
            best = {"error": error, "epoch": epoch}
    best = run.fabric.broadcast(best)
    if not best["epoch"]:
        raise InputError("the validation loss is not finite; lower learning_rate=")
    return best
