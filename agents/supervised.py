"""The one supervised training loop: schedules, early stopping, exact resume, curves."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import lr_scheduler

from steerlab.agents.checkpoint import fitting, load_checkpoint
from steerlab.agents.training_loop import BEST, Stateful, TrainingLoop, moving_average
from steerlab.devices import torch_device
from steerlab.errors import InputError, unknown_name
from steerlab.files import transaction
from steerlab.line_styles import line_styles
from steerlab.options import option

#: Kind of the checkpoints of :func:`fit`.
KIND = "supervised training"
SCHEDULES = ("cosine", "step", "plateau", "none")
KEEPS = ("best", "last")
Batch = dict[str, Tensor]
#: Gets the model, a batch and a random generator; returns scalars, "loss" the one to minimise.
Loss = Callable[[nn.Module, Batch, torch.Generator], dict[str, Tensor]]
#: Gets the model that would be kept; returns more validation scalars.
Metrics = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class FitConfig:
    """Options of :func:`fit`; a study's options inherit from it."""

    epochs: int = option(100, "largest number of passes over the training data")
    batch_size: int = option(256, "examples in each gradient step")
    learning_rate: float = option(1e-3, "largest step size of AdamW")
    weight_decay: float = option(0.0, "decoupled weight decay")
    schedule: str = option("cosine", "learning rate over time: cosine, step, plateau or none")
    warmup_steps: int = option(0, "steps over which the learning rate rises linearly")
    patience: int = option(0, "epochs without a better validation loss before stopping; 0 = never")
    keep: str = option(
        "best", "epoch whose weights are kept: best (lowest validation loss) or last"
    )
    gradient_clip: float = option(1.0, "largest norm of the gradient; 0 = no limit")
    ema_decay: float = option(0.0, "decay of the averaged weights that are kept; 0 = no average")
    seed: int = option(0, "seed of the initial weights, the order of batches and the noise")
    device: str = option("auto", "auto, cpu or cuda")


class Dataset(Protocol):
    """Anything with a length that gives a batch for an index tensor."""

    def __len__(self) -> int:
        """Return the number of examples."""

    def __getitem__(self, indices: Tensor) -> Batch:
        """Return the examples at ``indices`` (B,), each entry with the batch axis first."""


class TensorData:
    """A :class:`Dataset` of tensors in memory, each (N, ...) with the same N examples."""

    def __init__(self, **tensors: Tensor) -> None:
        lengths = {name: len(t) for name, t in tensors.items()}
        if len(set(lengths.values())) != 1:
            raise InputError(f"the tensors of a data set differ in length: {lengths}")
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, indices: Tensor) -> Batch:
        return {name: t[indices] for name, t in self.tensors.items()}

    def to(self, device: torch.device | str) -> "TensorData":
        """Return the data, tensors (N, ...), on ``device``; where it fits, that saves a copy a batch."""
        return TensorData(**{name: t.to(device) for name, t in self.tensors.items()})


@dataclass
class FitResult:
    """What :func:`fit` returns.

    Attributes:
        best: State dictionary of the epoch that is kept (averaged weights if ``ema_decay`` is set).
            It is loaded into the model as well.
        history: One dictionary of scalars an epoch.
        best_epoch: Epoch of ``best``, from 0.
        seconds: Training time, that of resumed parts included.
        stopped_early: Whether patience ran out.
    """

    best: dict[str, Tensor]
    history: list[dict[str, Any]]
    best_epoch: int
    seconds: float
    stopped_early: bool


def fit(
    model: nn.Module,
    loss: Loss,
    train: Dataset,
    valid: Dataset,
    config: FitConfig,
    output: str | Path,
    metrics: Metrics | None = None,
    describe: Mapping[str, Any] | None = None,
) -> FitResult:
    """Minimise ``loss`` on ``train``, keep the weights of the epoch that is best on ``valid``, or of the last.

    Writes into ``output``: ``last.pt`` after every epoch and ``best.pt``, ``metrics.jsonl`` and
    TensorBoard events, ``training_stats.json`` and ``training_curves.png``. If ``last.pt`` exists,
    training goes on after it, and ends with the same numbers as an uninterrupted run.

    Every epoch draws its order and noise from ``(seed, epoch)``; a loss that needs noise takes it
    from the generator it is given. Dropout and other global draws are seeded the same way, without
    touching the caller's global generator.

    Args:
        model: Network; moved to the device of ``config``.
        loss: Called with the model, a batch (a mapping of tensors (B, ...)) and a generator of random
            numbers; returns scalars by name, of which ``loss`` is the one to minimise.
        train: Training examples.
        valid: Validation examples; their loss is always computed with the same noise.
        config: Options.
        output: Folder of the results.
        metrics: More validation scalars, called once an epoch with the model that would be kept.
        describe: Plain values stored in the checkpoints, for instance what rebuilds the model.

    Returns:
        The best weights and the history.

    Raises:
        InputError: An option is out of range, or a data set is empty.
    """
    _check(config, train, valid)
    output, device = Path(output), torch_device(config.device)
    model.to(device)
    learner = _Learner(model, config, len(train))
    loop = TrainingLoop(
        output, KIND, config.epochs, learner.parts, asdict(config), unit="epoch", device=device,
        describe=describe,
    )  # fmt: skip
    best = _Best(**loop.values)
    with loop:
        for epoch in loop:
            if best.is_old(epoch, config.patience):
                break
            scalars = _train_epoch(model, loss, train, config, epoch, learner)
            scalars |= _judge(learner.kept, loss, valid, config, metrics)
            valid_loss = scalars["valid/loss"]
            learner.schedule.epoch_done(valid_loss)
            better = valid_loss < (math.inf if config.keep == "last" else best.best_loss)
            if better:
                best = _Best(valid_loss, epoch)
            shown = {part: f"{scalars[f'{part}/loss']:.4g}" for part in ("train", "valid")}
            loop.done(scalars, shown, best=learner.kept if better else None, **asdict(best))
    return _finish(model, loop, best, config, device)


class _Learner:
    """A network and what changes with it: optimiser, learning rate, averaged weights.

    Attributes:
        kept: What is validated and kept: the averaged weights where there are any.
        parts: Everything of it that a checkpoint holds.
    """

    def __init__(self, model: nn.Module, config: FitConfig, examples: int) -> None:
        self.optimizer = torch.optim.AdamW(
            model.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.schedule = _Schedule(self.optimizer, config, steps=-(-examples // config.batch_size))
        self.average = moving_average(model, config.ema_decay) if config.ema_decay else None
        self.kept: nn.Module = self.average.module if self.average else model
        self.parts: dict[str, Stateful] = {
            "model": model, "optimizer": self.optimizer, "schedule": self.schedule,
        }  # fmt: skip
        if self.average:
            self.parts["average"] = self.average


@dataclass(frozen=True)
class _Best:
    """The epoch that is kept so far, and its validation loss."""

    best_loss: float = math.inf
    best_epoch: int = -1

    def is_old(self, epoch: int, patience: int) -> bool:
        """Tell whether ``epoch`` lies more than ``patience`` epochs after it; 0 waits for ever."""
        return bool(patience) and epoch - self.best_epoch > patience


def _finish(
    model: nn.Module, loop: TrainingLoop, best: _Best, config: FitConfig, device: torch.device
) -> FitResult:
    """Load the best weights into the model, write statistics and curves."""
    if best.best_epoch < 0:
        raise InputError("the validation loss was never finite; lower learning_rate")
    path = loop.output / BEST
    result = FitResult(
        best=load_checkpoint(path, KIND, device)["model"],
        history=loop.records,
        best_epoch=best.best_epoch,
        seconds=loop.seconds,
        stopped_early=best.is_old(len(loop.records), config.patience),
    )
    with fitting(path, type(model).__name__):
        model.load_state_dict(result.best)
    model.eval()
    with transaction(loop.output) as files:
        _write_stats(files.path("training_stats.json"), config, result, best.best_loss)
        plot_curves(result.history, files.path("training_curves.png"), best.best_epoch)
    return result


def _train_epoch(
    model: nn.Module,
    loss: Loss,
    train: Dataset,
    config: FitConfig,
    epoch: int,
    learner: _Learner,
) -> dict[str, float]:
    device = torch_device(config.device)
    model.train()
    order_rng = torch.Generator().manual_seed(_mix(config.seed, epoch, 0))
    noise = torch.Generator(device).manual_seed(_mix(config.seed, epoch, 1))
    order = torch.randperm(len(train), generator=order_rng)
    sums: dict[str, Tensor] = {}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(_mix(config.seed, epoch, 2))
        for indices in order.split(config.batch_size):
            batch = _take(train, indices, device)
            values = loss(model, batch, noise)
            learner.optimizer.zero_grad(set_to_none=True)
            values["loss"].backward()
            if config.gradient_clip:
                nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
            learner.optimizer.step()
            learner.schedule.batch_done()
            if learner.average:
                learner.average.update_parameters(model)
            _add(sums, values, len(indices))
    rate = learner.optimizer.param_groups[0]["lr"]
    return _means("train", sums, len(train)) | {"train/learning_rate": rate}


def evaluate_loss(model: nn.Module, loss: Loss, data: Dataset, config: FitConfig) -> float:
    """Return the mean loss on ``data``, for instance a test set, with the noise of validation."""
    return _validate(model.to(torch_device(config.device)), loss, data, config)["valid/loss"]


def _judge(
    kept: nn.Module, loss: Loss, valid: Dataset, config: FitConfig, metrics: Metrics | None
) -> dict[str, float]:
    """Return the validation scalars of an epoch."""
    scalars = _validate(kept, loss, valid, config)
    if metrics:
        kept.eval()
        scalars |= {f"valid/{k}": float(v) for k, v in metrics(kept).items()}
    return scalars


@torch.no_grad()
def _validate(model: nn.Module, loss: Loss, valid: Dataset, config: FitConfig) -> dict[str, float]:
    device = torch_device(config.device)
    model.eval()
    noise = torch.Generator(device).manual_seed(_mix(config.seed, 0, 3))
    sums: dict[str, Tensor] = {}
    for indices in torch.arange(len(valid)).split(max(config.batch_size, 1024)):
        _add(sums, loss(model, _take(valid, indices, device), noise), len(indices))
    return _means("valid", sums, len(valid))


def _take(data: Dataset, indices: Tensor, device: torch.device) -> Batch:
    tensors = getattr(data, "tensors", None)
    if tensors and next(iter(tensors.values())).device.type != "cpu":
        indices = indices.to(device)
    return {name: t.to(device, non_blocking=True) for name, t in data[indices].items()}


def _add(sums: dict[str, Tensor], values: dict[str, Tensor], count: int) -> None:
    for key, value in values.items():
        sums[key] = sums.get(key, torch.zeros((), device=value.device)) + value.detach() * count


def _means(prefix: str, sums: dict[str, Tensor], count: int) -> dict[str, float]:
    return {f"{prefix}/{key}": value.item() / count for key, value in sums.items()}


def _mix(seed: int, epoch: int, stream: int) -> int:
    """Return one seed for each epoch and stream, far apart for neighbouring seeds."""
    return (seed * 1_000_003 + epoch) * 8 + stream


class _Schedule:
    """The learning rate: by batch for cosine and none, by epoch for step and plateau."""

    def __init__(self, optimizer: torch.optim.Optimizer, config: FitConfig, steps: int) -> None:
        warm = config.warmup_steps
        total = max(config.epochs * steps - warm, 1)
        by_batch: list[Any] = []
        if config.schedule == "cosine":
            by_batch = [lr_scheduler.CosineAnnealingLR(optimizer, total)]
        elif warm:
            by_batch = [lr_scheduler.ConstantLR(optimizer, 1.0, 1)]
        if warm:
            ramp = lr_scheduler.LinearLR(optimizer, 1 / (warm + 1), total_iters=warm)
            by_batch = [lr_scheduler.SequentialLR(optimizer, [ramp, *by_batch], [warm])]
        self.by_batch = by_batch[0] if by_batch else None
        self.by_epoch: Any = None
        if config.schedule == "step":
            every = max(config.epochs // 3, 1)
            self.by_epoch = lr_scheduler.StepLR(optimizer, every, gamma=0.3)
        elif config.schedule == "plateau":
            self.by_epoch = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=5)

    def batch_done(self) -> None:
        if self.by_batch:
            self.by_batch.step()

    def epoch_done(self, valid_loss: float) -> None:
        if isinstance(self.by_epoch, lr_scheduler.ReduceLROnPlateau):
            self.by_epoch.step(valid_loss)
        elif self.by_epoch:
            self.by_epoch.step()

    def state_dict(self) -> dict[str, Any]:
        return {
            "by_batch": self.by_batch.state_dict() if self.by_batch else {},
            "by_epoch": self.by_epoch.state_dict() if self.by_epoch else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.by_batch:
            self.by_batch.load_state_dict(state["by_batch"])
        if self.by_epoch:
            self.by_epoch.load_state_dict(state["by_epoch"])


def _check(config: FitConfig, train: Dataset, valid: Dataset) -> None:
    if config.schedule not in SCHEDULES:
        raise unknown_name("schedule", config.schedule, SCHEDULES)
    if config.keep not in KEEPS:
        raise unknown_name("keep", config.keep, KEEPS)
    if config.patience and config.keep == "last":
        raise InputError("patience= needs keep=best: there is no best epoch to wait for")
    if config.warmup_steps and config.schedule in ("step", "plateau"):
        raise InputError(f"warmup_steps works with schedule=cosine or none, not {config.schedule}")
    for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 0), ("warmup_steps", 0)):
        if getattr(config, name) < least:
            raise InputError(f"{name}={getattr(config, name)} must be at least {least}")
    if config.learning_rate <= 0:
        raise InputError(f"learning_rate={config.learning_rate} must be positive")
    if not 0 <= config.ema_decay < 1:
        raise InputError(f"ema_decay={config.ema_decay} must be in [0, 1)")
    for name, data in (("training", train), ("validation", valid)):
        if not len(data):
            raise InputError(f"the {name} set is empty; give more data or another split")


def _write_stats(path: Path, config: FitConfig, result: FitResult, best_loss: float) -> None:
    stats = {
        "best_epoch": result.best_epoch,
        "best_valid_loss": best_loss,
        "epochs": len(result.history),
        "stopped_early": result.stopped_early,
        "seconds": round(result.seconds, 2),
        "device": str(torch_device(config.device)),
        "history": result.history,
    }
    path.write_text(json.dumps(stats, indent=1), encoding="utf-8")


def plot_curves(history: list[dict[str, Any]], path: Path, best_epoch: int) -> None:
    """Draw training and validation loss over the epochs, the best epoch marked."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    epochs = [record["step"] + 1 for record in history]
    labels = {"train/loss": "training", "valid/loss": "validation"}
    styles = line_styles(labels)
    for key, label in labels.items():
        # The markers show a training of one epoch, too.
        losses = [record[key] for record in history]
        axes.plot(epochs, losses, markersize=3, label=label, **styles[key])
    axes.axvline(best_epoch + 1, color="grey", linestyle=":", label=f"best ({best_epoch + 1})")
    if all(record[k] > 0 for record in history for k in ("train/loss", "valid/loss")):
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel="loss")
    axes.legend()
    figure.savefig(path, dpi=120)
