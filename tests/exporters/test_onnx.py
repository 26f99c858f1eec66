"""Exported graphs compute what the module computes, or are not written."""

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from steerlab.errors import InputError
from steerlab.exporters.onnx import export_onnx, half_precision
from steerlab.openpilot.engines import session


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
    assert b"stack_trace" not in path.read_bytes()  # it would name the folders of this machine
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_a_graph_that_differs_is_not_written(tmp_path: Path) -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand_like(x)

    with pytest.raises(InputError, match="differ by"):
        export_onnx(Noisy(), [torch.zeros(2, 3)], tmp_path / "m.onnx", ["x"], ["y"])
    assert not list(tmp_path.iterdir())


def test_large_values_are_held_to_what_float32_resolves(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sums = nn.Linear(2000, 1)  # near 1000, where neighbours are 6e-5 apart, in any order
    with torch.no_grad():
        sums.weight.uniform_(0, 1)
    x = torch.rand(64, 2000)
    assert export_onnx(sums, [x], tmp_path / "m.onnx", ["x"], ["y"], tolerance=1e-6) < 1e-6


def test_half_precision_of_a_constant_that_two_nodes_need_in_float32(tmp_path: Path) -> None:
    class Bounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("most", torch.linspace(0.0, 1.0, 5))
            self.most: Tensor

        def forward(self, x: Tensor) -> Tensor:
            return torch.minimum(self.most, x) + torch.minimum(self.most, 2 * x)

    path = tmp_path / "bounded.onnx"
    export_onnx(Bounded(), [torch.rand(1, 5)], path, ["x"], ["y"], dynamic_batch=False)
    half = half_precision(onnx.load(str(path)))
    onnx.checker.check_model(half)
    x = np.array([[0.1, 0.1, 0.9, 0.3, 0.2]], np.float32)
    (found,) = session(half.SerializeToString()).run(None, {"x": x})
    most = np.linspace(0, 1, 5)
    np.testing.assert_allclose(found, np.minimum(most, x) + np.minimum(most, 2 * x), atol=2e-3)
