"""Exported graphs compute what the module computes, or are not written."""

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from steerlab.errors import InputError
from steerlab.exporters.onnx import export_onnx, session


def test_round_trip_with_free_batch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).eval()
    path = tmp_path / "m.onnx"
    difference = export_onnx(
        model, [torch.randn(3, 4)], path, ["x"], ["y"], metadata={"made_by": "test"}
    )
    assert difference < 1e-6
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    x = torch.randn(17, 4)
    (y,) = session(path).run(["y"], {"x": x.numpy()})
    np.testing.assert_allclose(y, model(x).detach().numpy(), atol=1e-6)
    assert {p.key: p.value for p in onnx.load(str(path)).metadata_props}["made_by"] == "test"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_a_graph_that_differs_is_not_written(tmp_path: Path) -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand_like(x)

    with pytest.raises(InputError, match="differ by"):
        export_onnx(Noisy(), [torch.zeros(2, 3)], tmp_path / "m.onnx", ["x"], ["y"])
    assert not list(tmp_path.iterdir())
