"""The vision network: its place in the flat output, its units, what it refuses."""

import numpy as np
import pytest
import torch
from torch import nn

from steerlab.agents.visionnet.network import SIZES, VisionNet
from steerlab.errors import InputError
from steerlab.openpilot.outputs import parse
from steerlab.seeds import initial_weights


def pictures(rows: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    shape = (2, rows, 12, 128, 256)
    narrow, wide = torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng)
    return narrow, wide


@pytest.fixture(scope="module")
def network() -> VisionNet:
    with initial_weights(0):
        return VisionNet("tiny").eval()


@torch.no_grad()
def test_flat_output_is_laid_out_as_in_openpilot_0_10_0(network: VisionNet) -> None:
    narrow, wide = pictures()
    flat, named = network(narrow, wide), network.tensors(narrow, wide)
    assert flat.shape == (2, 1536)
    assert flat.dtype == torch.float32
    # Released metadata: hidden_state at 1022:1534, lane_lines at 117:645, means before log-stds.
    torch.testing.assert_close(flat[:, 1022:1534], network.features(narrow, wide))
    torch.testing.assert_close(flat[:, 117:381], named["lane_lines"].flatten(1))
    torch.testing.assert_close(flat[:, 381:645], named["lane_lines_log_std"].flatten(1))
    assert not flat[:, 1534:].any()


@torch.no_grad()
def test_bytes_and_floats_mean_the_same(network: VisionNet) -> None:
    narrow, wide = pictures()
    torch.testing.assert_close(network(narrow, wide), network(narrow.float(), wide.float()))


@torch.no_grad()
def test_both_frames_of_both_cameras_count(network: VisionNet) -> None:
    narrow, wide = pictures(1)
    said = network(narrow, wide)
    for picture in (narrow, wide):
        for channels in (slice(0, 6), slice(6, 12)):
            kept = picture[:, channels].clone()
            picture[:, channels] = 0
            assert not torch.allclose(network(narrow, wide), said)
            picture[:, channels] = kept


@torch.no_grad()
def test_an_untrained_head_says_the_units() -> None:
    network = VisionNet("tiny").eval()
    last = network.heads[-1]
    assert isinstance(last, nn.Linear)
    last.weight.zero_()
    last.bias.zero_()
    mean = {"pose": torch.arange(6.0), "lead_prob_logits": torch.tensor([0.0, 2.0, -2.0])}
    network.set_units(mean, {"pose": torch.full((6,), 3.0)})
    said = parse(network.model.slices, network(*pictures(1)).numpy())
    np.testing.assert_allclose(said["pose"][0], [0, 1, 2, 3, 4, 5])
    np.testing.assert_allclose(said["pose_stds"][0], 3.0, rtol=1e-6)
    np.testing.assert_allclose(said["lead_prob"][0], [0.5, 0.880797, 0.119203], rtol=1e-5)


def test_every_generation_with_a_vision_network_of_its_own() -> None:
    # With a lead of 144 values there is no room for padding: 1576 = 8 * 197.
    assert VisionNet("tiny", "openpilot-0.10.1").model.length == 1576
    assert VisionNet("tiny", "openpilot-0.11.0", lead=102).model.length == 1536
    assert set(SIZES) == {"tiny", "small", "base"}


def test_refusals() -> None:
    with pytest.raises(InputError, match="no vision network of its own"):
        VisionNet("tiny", "openpilot-supercombo-2026-06")
    with pytest.raises(InputError, match="huge"):
        VisionNet("huge")
    with pytest.raises(InputError, match="lead=144"):
        VisionNet("tiny", "openpilot-0.10.0", lead=144)
    with pytest.raises(InputError, match="poses"):
        VisionNet("tiny").set_units({"poses": torch.zeros(6)}, {})
