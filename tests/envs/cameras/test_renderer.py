"""Rendered pictures hold what geometry and labels say."""

import copy
import dataclasses
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from steerlab.envs.cameras import compose, geometry, renderer
from steerlab.envs.cameras.geometry import NARROW, WIDE, Mount, Pose, View, model_view
from steerlab.envs.cameras.looks import Look, Weather
from steerlab.envs.cameras.mesh import EMPTY, quads
from steerlab.envs.cameras.renderer import Shot, render
from steerlab.envs.cameras.scenery import Scenery, scenery_of
from steerlab.envs.labels.corridor import corridor
from steerlab.envs.labels.lines import Boxes, lines
from steerlab.errors import InputError
from tests.envs.cameras.drawn import CLEAR, boards, edge_errors, scene
from tests.envs.labels import roads
from tests.envs.labels.roads import pose_on

pytest.importorskip("numba")

NO_CARS = Boxes(np.zeros((0, 3)), np.zeros(0), np.zeros((0, 3)))
X_IDXS = 192.0 * (np.arange(33) / 32) ** 2


@pytest.mark.parametrize("frame", [NARROW, WIDE])
def test_projection_against_the_analytic_one(frame: geometry.Pinhole) -> None:
    errors = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        pose = Pose(rng.normal(0, 300), rng.normal(0, 300), 0.0, rng.normal(), 0.02, 0.01)
        errors.append(edge_errors(model_view(pose, Mount(), frame), seed))
    left, right, top, bottom = np.concatenate(errors).T
    for low, high in ((left, right), (top, bottom)):
        middle = 0.5 * (low + high)
        assert abs(middle.mean()) < 0.05
        assert max(low.std(), high.std()) < 0.2
        assert abs((high - low).mean()) < 0.05  # things have their size


def road_shot(shape: str, s: float, frame: geometry.Pinhole) -> tuple[np.ndarray, np.ndarray]:
    """A picture of a road without furniture, and its left and right label lines in it (2, 33, 2)."""
    m = roads.road(shape)
    scenery = scenery_of(m)
    bare = Scenery(
        f"bare {shape}",
        tuple(t for t in scenery.tiles if t.material in ("asphalt", "marking", "ground")),
    )
    way = corridor(m, [roads.lane_of(m, -2)])
    i = int(np.searchsorted(way.path.s, s))
    pose = pose_on(way, i)
    mount = Mount(rpy=(0.01, 0.02, -0.01), error=(0.001, -0.001))
    view = model_view(pose, mount, frame)
    picture = render(Shot(bare, CLEAR, EMPTY, EMPTY, [view]))[0]
    to_frame = mount.calibrated_from_car @ pose.world_from_car.T
    origin = geometry.device_origin(pose, mount)
    found = lines(way, float(way.path.s[i]), origin, to_frame, NO_CARS)
    local = np.concatenate([np.broadcast_to(X_IDXS[:, None], (4, 33, 1)), found.lane_lines], axis=2)
    seen = view.project(local @ to_frame + origin)[..., :2]
    seen[~found.lane_lines_valid] = np.nan
    return picture, seen[[1, 2]]


@pytest.mark.parametrize("shape", roads.SHAPES)
@pytest.mark.parametrize("frame", [NARROW, WIDE])
def test_label_lines_fall_on_drawn_markings(shape: str, frame: geometry.Pinhole) -> None:
    misses = []
    for s in (60.0, 83.0, 111.0):
        picture, seen = road_shot(shape, s, frame)
        bright = picture.astype(float).mean(axis=2)
        right = seen[1]  # the solid line
        for x, (u, v) in zip(X_IDXS, right, strict=True):
            if not (6 <= x <= 60 and 12 < u < 500 and 5 < v < 250):
                continue
            # The line's middle along the row through the label: where the brightness is.
            reach = max(4, int(0.35 * frame.focal / x))
            around = np.arange(round(u) - reach, round(u) + reach + 1)
            around = around[(around >= 0) & (around < 512)]
            share = v - np.floor(v)
            row = (1 - share) * bright[int(v), around] + share * bright[int(v) + 1, around]
            weight = np.clip(row - np.median(row) - 0.3 * (row.max() - np.median(row)), 0, None)
            misses.append((weight * around).sum() / weight.sum() - u)
    assert len(misses) > 12
    assert np.abs(misses).max() < 1.0


@pytest.mark.parametrize(
    ("sensor", "frame"),
    [(geometry.NARROW_SENSOR, NARROW), (geometry.WIDE_SENSOR, WIDE)],
)
@pytest.mark.slow
def test_whole_sensor_through_the_warp_is_the_direct_model_frame(
    sensor: geometry.Pinhole, frame: geometry.Pinhole
) -> None:
    """Stated error: 3 grey levels on average where both are smoothed by a pixel."""
    scenery = scenery_of(roads.road("arc"))
    mount = Mount(rpy=(0.01, 0.02, -0.015), error=(0.002, 0.001), wide=(0.001, -0.002, 0.002))
    x, y, _ = (float(v[0]) for v in roads.reference("arc", np.array([60.0])))
    pose = Pose(x, y, 0.0, 0.6)
    view = geometry.sensor_view(pose, mount, sensor, frame == WIDE)
    whole = render(Shot(scenery, CLEAR, EMPTY, EMPTY, [view]))[0]
    warped = geometry.warp(whole, geometry.warp_matrix(sensor, frame, mount.calibration), frame)
    direct = render(Shot(scenery, CLEAR, EMPTY, EMPTY, [model_view(pose, mount, frame)]))[0]
    smooth = [gaussian_filter(p.astype(float), (1, 1, 0)) for p in (warped, direct)]
    assert np.abs(smooth[0] - smooth[1]).mean() < 3.0
    # A shift by one pixel would show: the error is smallest without one.
    shifted = [
        np.abs(np.roll(smooth[0], k, axis) - smooth[1]).mean() for axis in (0, 1) for k in (-1, 1)
    ]
    assert np.abs(smooth[0] - smooth[1]).mean() < min(shifted)


def a_shot(seed: int = 0, shape: str = "straight") -> Shot:
    pose = Pose(30.0, 5.0, 0.0, 0.4)
    views = [model_view(pose, Mount(), frame) for frame in (NARROW, WIDE)]
    return Shot(scenery_of(roads.road(shape)), Look(Weather(), seed), EMPTY, EMPTY, views)


def test_pictures_repeat_bit_for_bit_and_change_with_the_look() -> None:
    first, again, other = (render(a_shot(seed)) for seed in (1, 1, 2))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.shape == (256, 512, 3)
        assert np.abs(a.astype(int) - c).mean() > 2
    render(a_shot(3, "arc"))
    np.testing.assert_array_equal(render(a_shot(1))[0], first[0])


def test_haze_hides_what_is_far() -> None:
    thick, clear = (
        render(
            Shot(
                a_shot().scene,
                Look(Weather(visibility=v, cloud=1.0), 4),
                EMPTY,
                EMPTY,
                a_shot().views,
            )
        )[0]
        for v in (60.0, 5000.0)
    )
    rows = slice(50, 58)  # the road from 100 m on
    assert thick[rows].astype(float).std() < 0.5 * clear[rows].astype(float).std()


def test_what_is_nearer_hides_what_is_farther_whatever_comes_first() -> None:
    view = View(NARROW)
    near, far = (
        boards(view, np.array([[250.0, 120.0, d]]), np.array([0.02 * d])) for d in (10, 30)
    )
    red = dataclasses.replace(near, colours=near.colours * np.array([1, 0, 0], np.uint8))
    for name, meshes in (("near first", (red, far)), ("far first", (far, red))):
        shot = Shot(scene(name, *meshes), CLEAR, EMPTY, EMPTY, [view])
        r, g, _ = render(shot)[0][120, 250].astype(int)
        assert r > 100
        assert g < 10


def test_a_floor_reaches_from_behind_the_camera_to_the_horizon() -> None:
    """Two triangles, cut at the nearest depth: no gap between them, and nothing above the horizon."""
    view = View(NARROW, np.array([0.0, 0.0, -1.2]))
    floor = quads([[[-200, -300, 0], [300, -300, 0], [300, 300, 0], [-200, 300, 0]]], (255,) * 3)
    up = np.broadcast_to(np.array([0, 0, -1], np.float32), floor.normals.shape)
    shot = Shot(scene("floor", dataclasses.replace(floor, normals=up)), CLEAR, EMPTY, EMPTY, [view])
    picture = render(shot)[0].astype(int)
    horizon = 47.6 + 910 * 1.2 / 300
    below = picture[round(horizon) + 2 :]
    assert np.ptp(below.reshape(-1, 3), axis=0).max() <= 2
    assert np.abs(picture[: int(horizon) - 1] - below[0, 0]).max(axis=2).min() > 5


def test_textures_stay_in_place_as_they_come_near() -> None:
    """A mipmap's levels are means of the same texture, each a quarter as long as the one before."""
    texture = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    texels = compose.pyramid(texture)
    assert texels.shape == (64 + 16 + 4 + 1, 3)
    np.testing.assert_array_equal(texels[:64].reshape(8, 8, 3), texture)
    np.testing.assert_allclose(texels[64], texture[:2, :2].mean(axis=(0, 1)), atol=0.51)
    np.testing.assert_allclose(texels[-1], texture.mean(axis=(0, 1)), atol=0.51)


def test_shots_copy_and_pickle() -> None:
    shot = a_shot(6)
    picture = render(shot)[0]
    for twin in (copy.deepcopy(shot), pickle.loads(pickle.dumps(shot))):
        np.testing.assert_array_equal(render(twin)[0], picture)


@pytest.mark.exhaustive
def test_memory_stays_over_many_looks() -> None:
    """200 resets: scenes change, looks are new each time; less than 20 MB more after the first 20."""
    code = """
import os, resource
from tests.envs.cameras.test_renderer import a_shot
from steerlab.envs.cameras.renderer import render
def rss():
    return int(open('/proc/self/statm').read().split()[1]) * 4096 / 1e6
for i in range(221):
    render(a_shot(i, ('straight', 'arc', 'clothoid')[i % 3]))
    if i == 20:
        before = rss()
print(rss() - before)
"""
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs /proc")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 20


def test_without_numba_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "has_numba", lambda: False)
    with pytest.raises(InputError, match=r"steerlab\[camera\]"):
        renderer.Renderer()
