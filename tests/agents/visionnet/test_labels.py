"""What is encoded is read back by openpilot's parser; losses and units are those of plain formulas."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from steerlab.agents.visionnet import data
from steerlab.agents.visionnet.labels import encode, target
from steerlab.agents.visionnet.losses import WEIGHTS, vision_losses
from steerlab.agents.visionnet.units import label_units
from steerlab.openpilot.contracts import Model, contract
from steerlab.openpilot.outputs import parse, unpack

ROWS = 3


def model(width: int) -> Model:
    return contract("openpilot-0.10.1").model("driving_vision", heads={"lead": width})


def labels() -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    desire = np.eye(8)[rng.integers(0, 8, (ROWS, 4))]
    values = {
        "lane_lines": rng.normal(size=(ROWS, 4, 33, 2)),
        "lane_lines_prob": rng.uniform(0.01, 0.99, (ROWS, 4)),
        "road_edges": rng.normal(size=(ROWS, 2, 33, 2)),
        "lead": rng.normal(size=(ROWS, 3, 6, 4)),
        "lead_prob": rng.uniform(0.01, 0.99, (ROWS, 3)),
        "pose": rng.normal(size=(ROWS, 6)),
        "road_transform": rng.normal(size=(ROWS, 6)),
        "wide_from_device_euler": rng.normal(size=(ROWS, 3)),
        "desire_pred": desire,
        "meta": rng.integers(0, 2, (ROWS, 55)),
    }
    shapes = {"lane_lines": (4, 33), "road_edges": (2, 33), "lead": (3, 6), "lead_prob": (3,),
              "desire_pred": (4,), "meta": (55,)}  # fmt: skip
    known = {f"{n}_valid": rng.random((ROWS, *s)) < 0.7 for n, s in shapes.items()}
    return {n: torch.as_tensor(v, dtype=torch.float32) for n, v in values.items()} | {
        n: torch.as_tensor(v) for n, v in known.items()
    }


@pytest.mark.parametrize("width", [102, 144])
def test_encoded_labels_are_read_back(width: int) -> None:
    given = labels()
    if width == 102:  # two courses for three selections: one of them repeats
        given["lead"][:, 1] = given["lead"][:, 2]
        given["lead_valid"][:] = True
    found = parse(model(width).slices, encode(model(width), given, log_std=-2.0).numpy())
    for name in ("lane_lines", "road_edges", "pose", "road_transform", "wide_from_device_euler",
                 "lead"):  # fmt: skip
        np.testing.assert_allclose(found[name], given[name], rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(found[f"{name}_stds"], math.exp(-2.0), rtol=1e-6)
    for name in ("lead_prob", "desire_pred", "meta"):
        # Certainty ends at e^-11, for each of eight desires.
        np.testing.assert_allclose(found[name], given[name], rtol=0, atol=2e-4, err_msg=name)
    # openpilot reads indices 1, 3, 5 and 7 of the lane lines' probabilities.
    chances = found["lane_lines_prob"]
    np.testing.assert_allclose(chances[:, [1, 3, 5, 7]], given["lane_lines_prob"], rtol=1e-5)
    np.testing.assert_allclose(chances[:, [0, 2, 4, 6]], 1 - given["lane_lines_prob"], rtol=1e-4)


def test_a_label_of_a_real_shard_goes_through(shards: Path) -> None:
    shard = data.find(shards, "x")[0][1]
    given = {name: torch.as_tensor(shard.read(name)) for name in data.LABELS}
    found = parse(model(102).slices, encode(model(102), given).numpy())
    there = shard.read("lead_valid")[:, 0]
    assert there.any()
    np.testing.assert_allclose(found["lead"][:, 0][there], shard.read("lead")[:, 0][there])
    np.testing.assert_array_equal(found["lane_lines"], shard.read("lane_lines"))


@pytest.mark.parametrize("likelihood", ["laplace", "gaussian"])
@pytest.mark.parametrize("width", [102, 144])
def test_losses_are_those_of_plain_loops(width: int, likelihood: str) -> None:
    torch.manual_seed(0)
    given, form = labels(), model(width)
    said = {
        n: torch.randn(ROWS, *s) for h in form.heads.values() for n, s in h.tensors.items()
    }  # fmt: skip
    units = {n: torch.rand(t.shape[1:]) + 0.5 for n, t in said.items()}
    losses = vision_losses(form, said, given, units, likelihood)

    def nll(name: str, place: tuple[int, ...], label: float, row: int) -> float:
        mean, log_std = said[name][row][place].item(), said[f"{name}_log_std"][row][place].item()
        z = (label - mean) / math.exp(log_std)
        cost = math.sqrt(2) * abs(z) if likelihood == "laplace" else z * z / 2
        return cost + log_std - math.log(units[name][place].item())

    lines = [
        nll("lane_lines", (i, j, k), given["lane_lines"][b, i, j, k].item(), b)
        for b in range(ROWS) for i in range(4) for j in range(33) for k in range(2)
        if given["lane_lines_valid"][b, i, j]
    ]  # fmt: skip
    assert losses["lane_lines"].item() == pytest.approx(np.mean(lines), rel=1e-5)
    meta = [
        math.log1p(math.exp(-s if y else s))
        for s, y, known in zip(said["meta_logits"].flatten().tolist(), given["meta"].flatten(),
                               given["meta_valid"].flatten(), strict=True) if known
    ]  # fmt: skip
    assert losses["meta"].item() == pytest.approx(np.mean(meta), rel=1e-5)
    leads = []
    for b in range(ROWS):
        for s in range(3):
            places = [(t, c) for t in range(6) for c in range(4) if given["lead_valid"][b, s, t]]
            if not places:
                continue
            label = given["lead"][b, s]
            if width == 144:
                leads += [nll("lead", (s, *p), label[p].item(), b) for p in places]
                continue
            weights = said["lead_logits"][b, :, s].softmax(0)
            chances = [
                weights[h].item() * math.exp(-sum(nll("lead", (h, *p), label[p].item(), b)
                                                  for p in places))
                for h in range(2)
            ]  # fmt: skip
            leads.append(-math.log(sum(chances)) / len(places))
    assert losses["lead"].item() == pytest.approx(np.mean(leads), rel=1e-4)
    total = sum(WEIGHTS.get(n, 1.0) * v.item() for n, v in losses.items() if n != "loss")
    assert losses["loss"].item() == pytest.approx(total, rel=1e-5)


def test_what_is_unknown_has_no_effect() -> None:
    given, form = labels(), model(144)
    said = {
        n: torch.zeros(ROWS, *s) for h in form.heads.values() for n, s in h.tensors.items()
    }  # fmt: skip
    units = {n: torch.ones(t.shape[1:]) for n, t in said.items()}
    before = vision_losses(form, said, given, units)
    for name in ("lane_lines", "road_edges", "lead", "lead_prob", "meta"):
        known = target(name, given)[1]
        given[name] = torch.where(known, given[name], torch.full_like(given[name], 9.0))
    after = vision_losses(form, said, given, units)
    assert {n: v.item() for n, v in before.items()} == {n: v.item() for n, v in after.items()}


def test_lines_that_no_picture_shows_do_not_count() -> None:
    given = labels()
    given["lane_lines_valid"][:] = True
    # At 12 of 32 a point is 27 m ahead; the wide camera sees 15 m to the side, and 10 m are added.
    given["lane_lines"][0, 1, 12, 0], given["lane_lines"][0, 2, 12, 0] = -193.0, 24.0
    known = target("lane_lines", given)[1]
    assert not known[0, 1, 12].any()
    assert known.sum() == known.numel() - 2


def test_the_right_answer_costs_least() -> None:
    given, form = labels(), model(144)
    right = {
        n: torch.as_tensor(v) for n, v in unpack(form, encode(form, given, -2.0).numpy()).items()
    }
    units = {n: torch.ones(t.shape[1:]) for n, t in right.items()}
    least = vision_losses(form, right, given, units)
    for name in ("lane_lines", "lead", "pose"):
        for step in (-0.1, 0.1):
            moved = vision_losses(form, right | {name: right[name] + step}, given, units)
            assert moved[name] > least[name]


def test_units_are_mean_and_spread_of_what_is_known(shards: Path) -> None:
    found, form = data.find(shards, "x")[0], model(102)
    mean, scale = label_units(found, form)
    values = np.concatenate([s.read("lane_lines") for s in found])
    known = np.concatenate([s.read("lane_lines_valid") for s in found])
    some = values[known[:, 1, 5], 1, 5, 0]
    assert mean["lane_lines"][1, 5, 0].item() == pytest.approx(some.mean(), rel=1e-4)
    assert scale["lane_lines"][1, 5, 0].item() == pytest.approx(max(some.std(), 0.01), rel=1e-3)
    assert mean["lane_lines_prob_logits"][3].item() == pytest.approx(math.log(0.9 / 0.1), rel=1e-4)
    # The two courses of a lead begin one spread apart.
    apart = (mean["lead"][1] - mean["lead"][0]) / scale["lead"][0]
    np.testing.assert_allclose(apart, 1.0, rtol=1e-4)
    none, one = label_units(found[:1], form)  # there is no lead in the first episode
    assert (one["lead"] == 1).all()
    assert none["lead"].abs().max() == 0.5
