"""The one resumable loop: state, learning rate, averaged weights, log, progress and checkpoints.

After every step ``last.pt`` holds whatever the next step depends on, and the log of all steps so far.
``metrics.jsonl`` follows from it and is written anew at a start. So a run that is stopped at any moment
goes on with the state and the log of one step, never with those of two.
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from steerlab.agents.checkpoint import checkpoint_bytes, fitting, load_checkpoint
from steerlab.agents.run_log import Record, RunLog
from steerlab.errors import InputError
from steerlab.files import transaction, writable_folder
from steerlab.seeds import generator_seed
from steerlab.settings import current_settings, different_settings

LAST, BEST = "last.pt", "best.pt"


class Stateful(Protocol):
    """A part of what is trained: a module, an optimiser, statistics."""

    def state_dict(self) -> Any:
        """Return its state as tensors and plain values."""

    def load_state_dict(self, state: Any) -> Any:
        """Take a state that :meth:`state_dict` returned."""


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of the weights, updated by ``update_parameters``."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def step_generator(
    stream: str, seed: int, step: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return the random generator of one step of a training; see :mod:`steerlab.seeds`."""
    return torch.Generator(device).manual_seed(generator_seed(stream, seed, step))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class TrainingLoop:
    """Steps of a training (epochs, iterations) that go on where a stopped run ended.

    >>> with TrainingLoop("runs/x", "my training", 10, parts, {"seed": 0}) as loop:  # doctest: +SKIP
    ...     for step in loop:
    ...         loop.done({"loss": train(step)})

    Args:
        output: Folder of ``last.pt``, ``metrics.jsonl`` and TensorBoard events.
        kind: Kind of the checkpoints.
        total: Number of steps.
        parts: What has a state, by name.
        config: Plain values that a run must share with the one that it continues.
        unit: What a step is called in the progress bar.
        device: Where the parts compute.
        describe: Plain values that the checkpoints carry besides.

    Attributes:
        first: Step with which this run begins.
        values: Plain values of the step before it, as given to :meth:`done`.
        records: The log so far, one dictionary a line.
        seconds: Time spent on the training, that of stopped runs included.

    Raises:
        InputError: ``last.pt`` is damaged, is another training's, or had another ``config``.
    """

    def __init__(
        self,
        output: str | Path,
        kind: str,
        total: int,
        parts: Mapping[str, Stateful],
        config: Mapping[str, Any],
        *,
        unit: str = "step",
        device: torch.device | str = "cpu",
        describe: Mapping[str, Any] | None = None,
    ) -> None:
        self.output, self.kind, self.total = writable_folder(output), kind, total
        self.parts, self.config, self.unit = dict(parts), dict(config), unit
        self.describe = dict(describe or {})
        self.first, self.values, self.seconds = 0, dict[str, Any](), 0.0
        self.records: list[Record] = []
        if (self.output / LAST).exists():
            self._load(load_checkpoint(self.output / LAST, kind, device))
        self.step = self.first - 1  # the last one that is done
        self._written = len(self.records)

    def __enter__(self) -> Self:
        self.log = RunLog(self.output, self.records, self.first)
        self._start = time.perf_counter() - self.seconds
        self._bar = tqdm(total=self.total, initial=self.first, unit=self.unit, desc="training")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        self.log.close()

    def __iter__(self) -> Iterator[int]:
        yield from range(self.first, self.total)

    def record(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add a line to the log; it becomes visible with the next :meth:`save`."""
        self.records.append({"step": step, **{k: float(v) for k, v in scalars.items()}})

    def done(
        self,
        scalars: Mapping[str, float],
        shown: Mapping[str, Any] | None = None,
        best: nn.Module | None = None,
        **values: Any,
    ) -> None:
        """End a step: log ``scalars``, save everything, move the progress bar.

        Args:
            scalars: The step's line of the log.
            shown: What the progress bar says.
            best: A model that is better than all before; it becomes ``best.pt``.
            values: Plain values that the next step depends on.
        """
        self.record(self.step + 1, scalars)
        self.save(self.step + 1, best, **values)
        self.advance(1, shown)

    def advance(self, steps: int, shown: Mapping[str, Any] | None = None) -> None:
        """Move the progress bar."""
        self._bar.update(steps)
        if shown:
            self._bar.set_postfix(shown)

    def save(self, step: int, best: nn.Module | None = None, **values: Any) -> None:
        """Write ``last.pt``, and ``best.pt`` with it, for ``step``; then the new lines of the log."""
        self.step, self.seconds = step, time.perf_counter() - self._start
        common = {"step": step, "config": self.config, "describe": self.describe}
        state = {name: part.state_dict() for name, part in self.parts.items()}
        kept = {"values": values, "log": self.records, "seconds": self.seconds}
        with transaction(self.output) as files:
            if best is not None:
                contents = common | {"model": best.state_dict()}
                files.path(BEST).write_bytes(checkpoint_bytes(self.kind, contents))
            files.path(LAST).write_bytes(checkpoint_bytes(self.kind, common | state | kept))
        self.log.write(self.records[self._written :])
        self._written = len(self.records)

    def _load(self, state: dict[str, Any]) -> None:
        """Take the state of a stopped run."""
        path = self.output / LAST
        for now, saved in ((self.config, "config"), (current_settings(), "settings")):
            if now and (changes := different_settings(now, state.get(saved) or {})):
                raise InputError(
                    f"{str(path)!r} belongs to a run with other settings: {changes}; repeat those "
                    "to resume it, or choose another output="
                )
        with fitting(path, self.kind):
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            self.first = state["step"] + 1
            self.values, self.records, self.seconds = (
                state["values"],
                state["log"],
                state["seconds"],
            )
