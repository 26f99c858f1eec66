"""The supervised loop, held against closed forms and against itself after a kill."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steerlab.agents.checkpoint import load_checkpoint
from steerlab.agents.supervised import SCHEDULES, FitConfig, TensorData, fit
from steerlab.errors import InputError

CONFIG = FitConfig(epochs=8, batch_size=16, learning_rate=3e-2, device="cpu", ema_decay=0.5)


def data(count: int = 64, seed: int = 0) -> TensorData:
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return TensorData(x=x, y=x @ torch.tensor([1.0, -2.0, 0.5]) + 0.25)


def loss(model: nn.Module, batch: dict[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
    noise = 0.01 * torch.randn(len(batch["y"]), generator=rng)
    error = (model(batch["x"]).squeeze(-1) - batch["y"] + noise).square().mean()
    return {"loss": error, "rmse": error.sqrt()}


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Dropout(0.05), nn.Linear(3, 1))


def test_learns_the_closed_form(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=60, schedule="cosine", ema_decay=0.0)
    model = nn.Linear(3, 1)
    result = fit(model, loss, data(), data(32, 1), config, tmp_path)
    torch.testing.assert_close(model.weight[0], torch.tensor([1.0, -2.0, 0.5]), atol=0.02, rtol=0.0)
    assert result.history[-1]["valid/rmse"] < 0.02
    stats = json.loads((tmp_path / "training_stats.json").read_text())
    assert stats["best_epoch"] == result.best_epoch
    assert len(stats["history"]) == 60
    assert (tmp_path / "training_curves.png").stat().st_size > 5000
    assert list(tmp_path.glob("events.out.tfevents*"))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_resume_after_a_kill_equals_no_interruption(tmp_path: Path, schedule: str) -> None:
    config = replace(CONFIG, schedule=schedule, warmup_steps=2 if schedule == "cosine" else 0)
    whole = fit(network(), loss, data(), data(32, 1), config, tmp_path / "whole")

    class Killed(Exception):
        pass

    calls = 0

    def dies(*args: Any) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == 23:  # in the middle of an epoch
            raise Killed
        return loss(*args)

    with pytest.raises(Killed):
        fit(network(), dies, data(), data(32, 1), config, tmp_path / "cut")
    resumed = fit(network(), loss, data(), data(32, 1), config, tmp_path / "cut")
    assert resumed.history == whole.history
    for key in whole.best:
        assert torch.equal(whole.best[key], resumed.best[key])
    again = fit(network(), loss, data(), data(32, 1), config, tmp_path / "cut")
    assert again.history == whole.history


def test_early_stopping_keeps_the_best(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=50, learning_rate=1e-9, patience=3, ema_decay=0.0)
    result = fit(nn.Linear(3, 1), loss, data(), data(32, 1), config, tmp_path)
    assert result.stopped_early == (len(result.history) < 50)
    best = min(result.history, key=lambda r: r["valid/loss"])["step"]
    assert result.best_epoch == best
    assert load_checkpoint(tmp_path / "best.pt")["step"] == best


def test_the_last_epoch_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    """Validation gets worse from epoch to epoch: its examples are those of training, turned round."""
    worse = TensorData(**{n: -v if n == "y" else v for n, v in data(32, 1).tensors.items()})
    results = [
        fit(network(), loss, data(), worse, replace(CONFIG, epochs=4, keep=keep), tmp_path / keep)
        for keep in ("best", "last")
    ]
    assert [r["valid/loss"] for r in results[0].history] == [
        r["valid/loss"] for r in results[1].history
    ]
    assert results[0].best_epoch < 3 == results[1].best_epoch
    assert load_checkpoint(tmp_path / "last" / "best.pt")["step"] == 3
    for name, values in network().state_dict().items():
        assert values.shape == results[1].best[name].shape
        assert not torch.equal(results[0].best[name], results[1].best[name])


def test_global_generator_is_left_alone(tmp_path: Path) -> None:
    model = network()
    before = torch.get_rng_state()
    fit(model, loss, data(), data(32, 1), replace(CONFIG, epochs=1), tmp_path)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"epochs": 0}, "epochs=0"),
        ({"keep": "lst"}, "did you mean 'last'"),
        ({"keep": "last", "patience": 2}, "patience= needs keep=best"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"device": "gpu"}, "device='gpu'"),
    ],
)
def test_bad_options(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(network(), loss, data(), data(), replace(CONFIG, **change), tmp_path)


def test_bad_data_and_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="differ in length"):
        TensorData(x=torch.zeros(3), y=torch.zeros(4))
    with pytest.raises(InputError, match="validation set is empty"):
        fit(network(), loss, data(), data(0), CONFIG, tmp_path)
    with pytest.raises(InputError, match="no checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    (tmp_path / "bad.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(tmp_path / "bad.pt")
