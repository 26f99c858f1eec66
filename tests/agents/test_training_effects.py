"""Each option of the supervised loop does what it says, against plain calculations."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steerlab.agents.checkpoint import load_checkpoint
from steerlab.agents.supervised import Batch, FitConfig, TensorData, fit

CONFIG = FitConfig(
    epochs=4, batch_size=4, learning_rate=0.1, schedule="none", gradient_clip=0.0, device="cpu"
)


class Weight(nn.Module):
    """One number."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([value]))


def square(model: nn.Module, batch: Batch, noise: torch.Generator) -> dict[str, Tensor]:
    assert isinstance(model, Weight)
    return {"loss": ((model.w - batch["x"]) ** 2).mean()}


def numbers(*values: float) -> TensorData:
    return TensorData(x=torch.tensor(values))


def run(folder: Path, valid: TensorData, loss: Any = square, **changes: Any) -> Any:
    model = Weight()
    config = replace(CONFIG, **changes)
    return fit(model, loss, numbers(*[3.0] * 8), valid, config, folder), model


def test_early_stopping_stops(tmp_path: Path) -> None:
    """Training pulls w from 1 to 3 while validation wants 1: the first epoch stays the best."""
    result, _ = run(tmp_path, numbers(1.0), epochs=30, patience=3)
    assert (result.best_epoch, len(result.history), result.stopped_early) == (0, 4, True)
    result, _ = run(tmp_path / "never", numbers(1.0), epochs=6, patience=0)
    assert (len(result.history), result.stopped_early) == (6, False)
    result, _ = run(tmp_path / "better", numbers(3.0), epochs=6, patience=3)
    assert (result.best_epoch, result.stopped_early) == (5, False)


def test_the_best_file_holds_the_averaged_weights(tmp_path: Path) -> None:
    seen: list[float] = []

    def watched(model: nn.Module, batch: Batch, noise: torch.Generator) -> dict[str, Tensor]:
        if model.training:
            seen.append(float(model.w.detach()))  # type: ignore[operator]
        return square(model, batch, noise)

    result, model = run(tmp_path, numbers(3.0), watched, ema_decay=0.8)
    raw = float(load_checkpoint(tmp_path / "last.pt")["model"]["w"])
    assert seen[:2] == pytest.approx([1.0, 1.1])  # the first step of Adam is the learning rate
    weights = [*seen[1:], raw]  # after every update
    average = weights[0]  # torch starts the average with the first weights
    for weight in weights[1:]:
        average = 0.8 * average + 0.2 * weight
    found = float(load_checkpoint(tmp_path / "best.pt")["model"]["w"])
    assert found == pytest.approx(average, rel=1e-5)
    assert abs(found - raw) > 0.1
    assert float(result.best["w"]) == float(model.w.detach()) == found


def test_weight_decay_shrinks_a_weight_without_gradient(tmp_path: Path) -> None:
    def flat(model: nn.Module, batch: Batch, noise: torch.Generator) -> dict[str, Tensor]:
        return {"loss": 0.0 * model.w.sum() + batch["x"].mean()}  # type: ignore[operator]

    run(tmp_path, numbers(1.0), flat, epochs=1, weight_decay=0.5)  # two steps of 0.1 * 0.5
    found = load_checkpoint(tmp_path / "last.pt")["model"]["w"]
    assert float(found) == pytest.approx(0.95**2, rel=1e-6)


def test_the_seed_orders_the_batches(tmp_path: Path) -> None:
    def order(folder: str, seed: int) -> list[list[float]]:
        batches: list[list[float]] = []

        def noted(model: nn.Module, batch: Batch, noise: torch.Generator) -> dict[str, Tensor]:
            if model.training:
                batches.append(batch["x"].tolist())
            return square(model, batch, noise)

        data = numbers(*range(16))
        config = replace(CONFIG, epochs=2, seed=seed)
        fit(Weight(), noted, data, numbers(0.0), config, tmp_path / folder)
        return batches

    one, again, other = order("a", 0), order("b", 0), order("c", 1)
    assert one == again
    assert one != other
    assert one[:4] != one[4:]  # each epoch has an order of its own
    for epoch in (one[:4], one[4:]):
        assert sorted(itertools.chain(*epoch)) == list(range(16))
