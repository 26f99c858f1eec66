"""Weather, light, sky and textures, drawn anew for every episode: a network must not live on one look."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from steerlab.envs.cameras.compose import LOWEST, Sky, pyramid
from steerlab.envs.cameras.mesh import Mesh
from steerlab.types import Bytes, Singles

TEXTURE = 256  # texels a side, a power of two
#: Materials that have a texture, and their numbers.
TEXTURES = {name: i for i, name in enumerate(("asphalt", "ground", "concrete", "facade"))}
SKY = (96, 512)  # points of the panorama: elevations, azimuths


@dataclass(frozen=True)
class Weather:
    """What light and air are like."""

    sun_azimuth: float = 0.8  # rad, as headings
    sun_elevation: float = 0.7  # rad above the horizon
    cloud: float = 0.3  # share of the sky, 0 to 1
    visibility: float = 1500.0  # m, at which 5 % of a contrast is left
    wetness: float = 0.0  # 0 dry, 1 puddles


def weather_of(values: Mapping[str, float]) -> Weather:
    """Return what CARLA's names of weather mean here.

    Args:
        values: Percents and degrees as in ``carla.WeatherParameters``: ``cloudiness``,
            ``precipitation``, ``precipitation_deposits``, ``wetness``, ``fog_density``,
            ``sun_altitude_angle``, ``sun_azimuth_angle``. Rain thickens the haze and greys the sky;
            it is not drawn as drops. A sun below 4 degrees stands at 4: there is no night.
    """
    share = {name: value / 100 for name, value in values.items()}
    rain = share["precipitation"]
    cloud = max(share["cloudiness"], min(1.0, 2.0 * rain))
    wet = max(share["wetness"], share["precipitation_deposits"], 0.8 * rain)
    thickness = share["fog_density"] + 0.25 * rain
    return Weather(
        sun_azimuth=math.radians(values["sun_azimuth_angle"]),
        sun_elevation=math.radians(max(values["sun_altitude_angle"], 4.0)),
        cloud=cloud,
        visibility=5000.0 * math.exp(-4.0 * min(thickness, 1.0)),
        wetness=wet,
    )


@dataclass(frozen=True, eq=False)
class Look:
    """How everything looks in one episode.

    Args:
        weather: Light and air.
        seed: Of textures and tints.
    """

    weather: Weather = field(default_factory=Weather)
    seed: int = 0

    @property
    def visibility(self) -> float:
        """Return the distance at which haze leaves 5 %, m."""
        return self.weather.visibility

    @cached_property
    def sun(self) -> Singles:
        """Return the direction to the sun (3,)."""
        w = self.weather
        flat = np.cos(w.sun_elevation)
        return np.array(
            [flat * np.cos(w.sun_azimuth), flat * np.sin(w.sun_azimuth), -np.sin(w.sun_elevation)],
            np.float32,
        )

    @cached_property
    def light(self) -> tuple[Singles, Singles]:
        """Return the RGB gains of sunlight and of skylight."""
        w = self.weather
        high = np.clip(np.sin(w.sun_elevation) / 0.6, 0.0, 1.0)
        clear = 1.0 - 0.85 * w.cloud
        warm = np.array([1.0, 0.78 + 0.22 * high, 0.55 + 0.45 * high])
        sunlight = warm * clear * (0.40 + 0.30 * high)
        level = 0.50 + 0.18 * high + 0.14 * w.cloud
        skylight = np.array([0.95, 1.0, 1.08 - 0.06 * w.cloud]) * level
        return sunlight.astype(np.float32), skylight.astype(np.float32)

    @cached_property
    def sky(self) -> Sky:
        """Return the sky; haze has the horizon's colour."""
        w, rng = self.weather, np.random.default_rng([self.seed, 1])
        rows, columns = SKY
        elevation = np.linspace(LOWEST, np.pi / 2, rows)[:, None]
        azimuth = np.linspace(-np.pi, np.pi, columns, endpoint=False)[None]
        high = np.clip(np.sin(w.sun_elevation) / 0.6, 0.0, 1.0)
        level = 0.55 + 0.45 * high
        horizon = np.array([222.0, 222 + 6 * high, 214 + 22 * high]) * level
        zenith = np.array([70.0, 118, 190]) * level
        share = np.clip(elevation / 1.1, 0, 1)[..., None] ** 0.55
        colours = horizon * (1 - share) + zenith * share
        wide = np.clip(elevation, 0.08, None)
        noise = _noise(rng, (rows, columns), ((3, 14, 1.0), (1, 5, 0.5)))
        cover = np.clip((noise + 2.6 * w.cloud - 1.0) * 0.9, 0, 1) * np.clip(wide * 6, 0.3, 1)
        grey = np.array([236.0, 238, 240]) * level * (1 - 0.35 * w.cloud)
        colours = colours * (1 - cover[..., None]) + grey * cover[..., None]
        cosine = np.sin(elevation) * np.sin(w.sun_elevation) + np.cos(elevation) * np.cos(
            w.sun_elevation
        ) * np.cos(azimuth - w.sun_azimuth)
        glow = np.clip(cosine, 0, 1)[..., None]
        shine = (1 - 0.9 * w.cloud) * (70 * glow**24 + 260 * glow**900)
        colours = np.clip(colours + shine * [1.0, 0.95, 0.8], 0, 255)
        below = elevation[:, 0] <= 0.01
        haze = colours[np.argmin(np.abs(elevation[:, 0] - 0.03))].mean(axis=0)
        colours[below] = haze
        return Sky(colours.astype(np.float32), haze.astype(np.float32))

    @cached_property
    def textures(self) -> dict[str, Bytes]:
        """Return the texture (256, 256, 3) of each textured material."""
        rng = np.random.default_rng([self.seed, 2])
        wet = self.weather.wetness
        return {
            "asphalt": _asphalt(rng, wet, self.sky.haze),
            "ground": _ground(rng, wet),
            "concrete": _concrete(rng, wet),
            "facade": _facade(rng),
        }

    @cached_property
    def texels(self) -> Bytes:
        """Return all textures as the renderer takes them, (4, N, 3), by ``TEXTURES``."""
        return np.stack([pyramid(self.textures[name]) for name in TEXTURES])

    def shade(self, mesh: Mesh) -> Bytes:
        """Return the colours (V, 3) of a mesh in this light."""
        sunlight, skylight = self.light
        facing = np.maximum(mesh.normals @ self.sun, 0.0)[:, None]
        open_ = (0.8 - 0.2 * mesh.normals[:, 2:]).astype(np.float32)  # upward sides see more sky
        gains = facing * sunlight + open_ * skylight
        return np.minimum(mesh.colours * gains, 255).astype(np.uint8)


def _noise(
    rng: np.random.Generator, shape: tuple[int, int], scales: tuple[tuple[float, ...], ...]
) -> NDArray[np.float64]:
    """Return noise of unit variance that repeats; scales are (down, right, weight) in pixels."""
    total = np.zeros(shape)
    for down, right, weight in scales:
        layer = gaussian_filter(rng.standard_normal(shape), (down, right), mode="wrap")
        total += weight * layer / layer.std()
    return np.asarray(total / total.std())


def _levels(values: Any, step: float) -> NDArray[np.float64]:
    """Return ``values`` on few levels: grain would fill the disk, and comes with the sensor's noise."""
    return np.asarray(np.rint(values / step) * step)


def _tinted(grey: Any, tint: Any) -> Bytes:
    return np.clip(np.asarray(grey)[..., None] * np.asarray(tint), 0, 255).astype(np.uint8)


def _asphalt(rng: np.random.Generator, wet: float, sky: Singles) -> Bytes:
    """Return tarmac; wet it is darker, and where water stands it has the sky's colour."""
    size = (TEXTURE, TEXTURE)
    patches = _noise(rng, size, ((26, 26, 1.0), (60, 10, 0.7), (8, 8, 0.5)))
    grey = rng.uniform(105, 165) + _levels(patches * rng.uniform(4, 12), rng.uniform(6, 10))
    mended = _noise(rng, size, ((40, 14, 1.0),)) > rng.uniform(1.3, 3.0)
    grey[mended] *= rng.uniform(0.75, 0.9)
    cracks = np.abs(_noise(rng, size, ((22, 22, 1.0),))) < rng.uniform(0.0, 0.02)
    grey[cracks] *= 0.8
    tint = 1.0 + rng.uniform(-0.03, 0.03, 3)
    dry = _tinted(grey * (1 - 0.45 * wet), tint).astype(float)
    water = np.clip((patches + 1.6 * wet - 1.4) * 1.5, 0, 0.6)[..., None] * (wet > 0)
    water = _levels(water, 0.15)
    return np.clip(dry * (1 - water) + 0.8 * sky * water, 0, 255).astype(np.uint8)


def _ground(rng: np.random.Generator, wet: float) -> Bytes:
    """Return grass, from green to dry."""
    size = (TEXTURE, TEXTURE)
    tufts = _levels(_noise(rng, size, ((9, 9, 1.0), (30, 30, 1.0))), 0.7)
    dry = _levels(0.25 * _noise(rng, size, ((34, 34, 1.0),)), 0.15)
    dryness = np.clip(rng.uniform(0, 1) + dry, 0, 1)
    green, straw = np.array([96.0, 130, 62]), np.array([168.0, 150, 98])
    colour = green * (1 - dryness[..., None]) + straw * dryness[..., None]
    gain = (1 + 0.11 * tufts) * rng.uniform(0.8, 1.15) * (1 - 0.2 * wet)
    return np.clip(colour * gain[..., None], 0, 255).astype(np.uint8)


def _concrete(rng: np.random.Generator, wet: float) -> Bytes:
    """Return paving slabs with joints."""
    size = (TEXTURE, TEXTURE)
    grey = rng.uniform(150, 200) + _levels(7 * _noise(rng, size, ((20, 20, 1.0),)), 6)
    joint = int(rng.choice([64, 128]))
    for line in (grey, grey.T):
        for wide in (0, 1):
            line[wide::joint] *= 0.8
    return _tinted(grey * (1 - 0.3 * wet), 1.0 + rng.uniform(-0.04, 0.04, 3))


def _facade(rng: np.random.Generator) -> Bytes:
    """Return a wall with rows of windows; its first row and column, which roofs use, are plain."""
    stains = 5 * _noise(rng, (TEXTURE, TEXTURE), ((30, 12, 1.0),))
    wall = 235.0 + _levels(stains, 6)
    picture = _tinted(wall, (1.0, 1.0, 1.0))
    count = int(rng.choice([4, 5, 6]))
    step = TEXTURE // count
    wide, tall = rng.uniform(0.4, 0.75, 2)
    for i in range(count):
        for j in range(count):
            top, left = i * step + int(step * (1 - tall) / 2), j * step + int(step * (1 - wide) / 2)
            glass = rng.uniform([40, 52, 66], [105, 125, 150])
            picture[
                max(top, 2) : top + int(step * tall), max(left, 2) : left + int(step * wide)
            ] = glass
    return picture
