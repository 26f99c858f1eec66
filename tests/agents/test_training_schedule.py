"""The learning rate follows its schedule, and every epoch has noise of its own."""

from math import cos, pi
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from steerlab.agents.supervised import FitConfig, TensorData, fit


def test_rate_and_noise_of_every_epoch(tmp_path: Path) -> None:
    seen: list[float] = []

    def loss(model: nn.Module, batch: dict[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
        if model.training:
            seen.append(float(torch.rand((), generator=rng)))
        return {"loss": model(batch["x"]).square().mean()}

    data = TensorData(x=torch.ones(8, 2))
    config = FitConfig(
        epochs=4, batch_size=4, learning_rate=0.1, schedule="cosine", patience=0, device="cpu"
    )
    result = fit(nn.Linear(2, 1), loss, data, data, config, tmp_path)
    rates = [record["train/learning_rate"] for record in result.history]
    assert rates == pytest.approx([0.05 * (1 + cos(pi * k / 4)) for k in (1, 2, 3, 4)], abs=1e-9)
    assert len(set(seen)) == len(seen) == 8
