"""The plant of two moments: its labels, its windows, and that it learns."""

from pathlib import Path

import numpy as np
import pytest
import torch

from steerlab.agents.supervised import FitConfig, fit
from steerlab.surrogates.plants.analytic import AnalyticPlant
from steerlab.surrogates.plants.moments import (
    MomentData,
    MomentPlant,
    MomentRecorder,
    Transitions,
    moment_loss,
)
from steerlab.surrogates.plants.tokens import BINS, encode


def some_drives(rows: int, steps: int = 60) -> Transitions:
    rng = np.random.default_rng(0)
    steer = 0.05 * rng.standard_normal((rows, steps)).cumsum(axis=1)
    road = np.stack(
        [rng.normal(0, 0.2, (rows, steps)), np.full((rows, steps), 20.0), np.zeros((rows, steps))],
        axis=-1,
    )
    recorder = MomentRecorder(AnalyticPlant())
    lataccel = np.zeros((rows, steps))
    lataccel[:, :20] = 0.1 * rng.standard_normal((rows, 20))
    for t in range(20, steps):
        window = slice(t - 19, t + 1)
        states = np.concatenate([steer[:, window, None], road[:, window]], axis=-1)
        tokens = encode(lataccel[:, t - 20 : t])
        drawn = recorder.sample(states.astype(np.float32), tokens, rng.random(rows))
        lataccel[:, t] = BINS[drawn]
    steer32, lataccel32, road32 = (part.astype(np.float32) for part in (steer, lataccel, road))
    mean, deviation = (np.stack(x, axis=1) for x in (recorder.mean, recorder.deviation))
    return Transitions(steer32, lataccel32, road32, mean, deviation)


def test_recorder_notes_the_moments_of_the_draws() -> None:
    recorder = MomentRecorder(AnalyticPlant())
    states = np.tile(np.array([0.3, 0.1, 20.0, 0.0], np.float32), (1, 20, 1))
    tokens = encode(np.full((1, 20), 0.4))
    recorder.logits(states, tokens)
    # gain 2.05 * 20 / 24 on 0.3, 0.3 of the roll; the state moves by a tenth towards it
    held = 2.05 * 20 / 24 * 0.3 + 0.3 * 0.1
    before = BINS[tokens[0, 0]]
    assert float(recorder.mean[0][0]) == pytest.approx(before + 0.1 * (held - before), abs=1e-3)
    assert float(recorder.deviation[0][0]) == pytest.approx(0.035, abs=1e-3)


def test_windows_are_what_the_plant_saw(tmp_path: Path) -> None:
    drives = some_drives(3)
    drives.save(tmp_path / "drives.npz")
    drives = Transitions.join([Transitions.load(tmp_path / "drives.npz"), drives])
    data = MomentData(drives)
    assert len(data) == 6 * 40
    batch = data[torch.tensor([0, 47, 239])]
    for place, (row, t) in enumerate([(0, 20), (1, 27), (5, 59)]):
        np.testing.assert_array_equal(batch["steer"][place], drives.steer[row, t - 19 : t + 1])
        np.testing.assert_array_equal(batch["lataccel"][place], drives.lataccel[row, t - 20 : t])
        np.testing.assert_array_equal(batch["road"][place], drives.road[row, t - 19 : t + 1])
        assert batch["mean"][place] == drives.mean[row, t - 20]
        assert batch["deviation"][place] == drives.deviation[row, t - 20]


def test_plant_learns_the_teacher(tmp_path: Path) -> None:
    train, valid = MomentData(some_drives(60)), MomentData(some_drives(3))
    torch.manual_seed(0)
    plant = MomentPlant((16, 16))
    plant.fit_normaliser(train[torch.arange(len(train))])
    config = FitConfig(epochs=12, batch_size=128, learning_rate=1e-2, device="cpu")
    result = fit(plant, moment_loss, train, valid, config, tmp_path)
    last = result.history[-1]
    assert last["valid/error"] < 0.01  # m/s^2; a change of the mean in a step is 0.03
    assert last["valid/spread"] < 0.05


def test_looking_behind_at_once_changes_nothing() -> None:
    torch.manual_seed(0)
    plant = MomentPlant((8, 8)).requires_grad_(False)
    batch = MomentData(some_drives(4))[torch.arange(0, 160, 7)]
    road = batch["road"]
    together = plant.predict(plant.look_behind(road), batch["steer"], batch["lataccel"])
    for place in range(len(road)):
        one = plant(*(batch[n][place : place + 1] for n in ("steer", "lataccel", "road")))
        for a, b in zip(one, together, strict=True):
            assert float(a) == pytest.approx(float(b[place]), abs=1e-6)
