"""Collecting on a server: shards like those of the embedded backend, and none lost when it fails."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerlab.envs.carla_driver.collecting import Episode
from steerlab.envs.carla_driver.scenarios import as_scenario
from steerlab.envs.carla_driver.server import link as links
from steerlab.envs.carla_driver.server.launch import Launched
from steerlab.envs.shards.layout import PARTS, STATE
from steerlab.envs.shards.read import find_shards, open_shard
from steerlab.envs.shards.write import PENDING
from steerlab.errors import InputError
from steerlab.experiments import collect
from tests.counts import Tally
from tests.envs.carla_server import duck as ducks

pytest.importorskip("zarr")


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text("like: country_road\ntraffic: 2\n")
    return str(path)


def settings(duck: ducks.Server, scenario: str, **changes: Any) -> collect.Config:
    options = {"scenario": (scenario,), "episodes": 1, "steps": 12, **changes}
    return collect.Config(backend="server", carla_port=duck.port, carla_timeout=0.5, **options)


def test_a_shard_from_a_server(duck: ducks.Server, scenario: str, tmp_path: Path) -> None:
    output = tmp_path / "shards"
    output.mkdir()
    result = collect.run(settings(duck, scenario, steps=24, hz=20), output)
    assert result["episodes"] == 1
    (path,) = find_shards(output)
    assert path.name.startswith("tiny_Town07_")
    shard = open_shard(path)
    shard.check()
    assert (shard.frames, shard.ticks) == (24, 24)
    assert shard.attributes["backend"] == "server"
    assert shard.attributes["map"] == "Town07"
    assert shard.attributes["ended"] == "none"
    # The pictures of the tests have one colour each; the wide camera's are bluer.
    narrow, wide = shard.read("img"), shard.read("big_img")
    for planes in (narrow, wide):
        assert all(len(np.unique(plane)) == 1 for plane in planes.reshape(24 * 6, -1))
    # Each is of its own tick; the 24 of them have 11 brightnesses, rounded to levels of a shard.
    assert len({int(frame[0, 0, 0]) for frame in narrow}) == 11
    assert (wide[:, 4, 0, 0] > narrow[:, 4, 0, 0]).all()
    state, lines = shard.read("state"), shard.read("lane_lines")
    speed, x, y = (state[:, STATE.index(name)] for name in ("speed", "x", "y"))
    np.testing.assert_allclose(
        np.hypot(np.diff(x), np.diff(y)), 0.025 * (speed[1:] + speed[:-1]), atol=0.01
    )
    assert (np.abs(lines[:, 1:3, 0, 0]) < 4).all()
    assert (lines[:, 1, 0, 0] < lines[:, 2, 0, 0]).all()
    duck.untouched()
    again = collect.run(settings(duck, scenario, steps=24, hz=20), output)
    assert (again["episodes"], again["kept"]) == (0, 1)


def inject(duck: ducks.Server, rng: np.random.Generator) -> str:
    """Let the next episode meet a failure, or none; return which."""
    kind = str(rng.choice(["none", "call", "death", "lost", "late", "blocked", "left"]))
    duck.delay, duck.fail, duck.lose, duck.blocked = 0.0, {}, 0, 0
    if kind in ("call", "death"):
        calls = ("tick", "spawn", "apply_control", "get_world", "get_map", "set_weather", "stop",
                 "apply_batch_sync", "get_snapshot", "apply_settings")  # fmt: skip
        call = str(rng.choice(calls))
        many = 30 if call in ("tick", "get_snapshot", "apply_control") else 3
        duck.fail = {call: int(rng.integers(many))}
        duck.how = "death" if kind == "death" else str(rng.choice(["time-out", "error"]))
    elif kind == "lost":
        duck.lose = int(rng.integers(1, 20))
    elif kind == "late":
        duck.delay = 0.01
    elif kind == "blocked":
        duck.blocked = int(rng.integers(1, 20))
    elif kind == "left" and not duck.dead:  # somebody was killed before
        car = duck.library()[0]
        car.set_attribute("role_name", "steerlab")
        ducks.World(duck).try_spawn_actor(
            car, duck.map.get_waypoint(ducks.carla.Location()).transform
        )
        duck.settings.synchronous_mode, duck.settings.fixed_delta_seconds = True, 0.05
    return kind


def relaunching(duck: ducks.Server) -> Callable[..., Any]:
    """Return what takes ``launched``'s place: it starts the duck again where it has died."""

    @contextmanager
    def launched(*_: Any, **__: Any) -> Iterator[Launched]:
        if duck.dead:
            duck.boot()
        yield Launched("127.0.0.1", duck.port, duck.version)

    return launched


def many_episodes(
    duck: ducks.Server, scenario: str, output: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> dict[str, int]:
    """Collect tiny episodes, each after an injected failure; return how often each kind came."""
    monkeypatch.setattr(links, "launched", relaunching(duck))
    rng, kinds = np.random.default_rng(1), []
    real = collect.collect

    def failing(episode: Episode, *arguments: Any, **options: Any) -> Path:
        if not tried or tried[-1] != episode.seed:  # the first attempt only
            tried.append(episode.seed)
            kinds.append(inject(duck, rng))
        else:
            duck.lose = 0
        path = real(episode, *arguments, **options)
        if not duck.dead:  # it may die while the episode is closed
            assert duck.ours() == []
            assert not duck.settings.synchronous_mode
        return path

    tried: list[int] = []
    monkeypatch.setattr(collect, "collect", failing)
    output.mkdir(exist_ok=True)
    config = settings(duck, scenario, episodes=count, steps=10, carla_root="here", restart_every=7)
    result = collect.run(config, output)
    assert result["episodes"] == count
    shards = [open_shard(path) for path in find_shards(output)]
    names = {Episode(as_scenario(scenario), seed, backend="server").name for seed in tried}
    assert {shard.path.name for shard in shards} == names
    assert len(names) == count  # none lost
    assert not list(output.glob(f"{PENDING}*"))
    for shard in shards:
        assert 5 <= shard.ticks <= 10  # a car that found room further on is sooner at the end
        for part in PARTS:
            shard.read(part)
    duck.fail = {}
    duck.untouched()
    return {kind: kinds.count(kind) for kind in kinds}


@pytest.mark.slow
def test_no_shard_is_lost_when_servers_fail(
    duck: ducks.Server, scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = many_episodes(duck, scenario, tmp_path / "shards", monkeypatch, 15)
    assert len(kinds) >= 5


@pytest.mark.exhaustive
def test_500_episodes_with_failures(
    duck: ducks.Server, scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    tally: Tally,
) -> None:  # fmt: skip
    count = int(os.environ.get("STEERLAB_EPISODES", "500"))
    kinds = many_episodes(duck, scenario, tmp_path / "shards", monkeypatch, count)
    tally("episodes on a failing server", "collect", episodes=count, **kinds)


def test_a_server_that_never_works_ends_the_collection(
    duck: ducks.Server, scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(duck, "rpc", _always_late)
    monkeypatch.setattr(links, "connect", _connected)
    with pytest.raises(InputError, match="does not answer"):
        collect.run(settings(duck, scenario), tmp_path)
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("the episode begins again") == collect.ATTEMPTS - 1
    assert not list(find_shards(tmp_path))


def _always_late(name: str) -> None:
    raise RuntimeError(ducks.LATE)


def _connected(host: str, port: int, *_: float) -> Any:
    return ducks.Client(host, port), links.Capabilities


def test_workers_take_servers_of_their_own(
    scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, duck: ducks.Server
) -> None:
    """The second process goes on to the next port where the first one has the first."""
    other = ducks.Server(port=duck.port + collect.PORT_STEP)
    try:
        config = settings(duck, scenario, processes=2)
        first = collect._server(config)
        assert collect._server(config) is first
        monkeypatch.setattr(collect, "_held", [])
        second = collect._server(config)
        assert [link.options.port for link in (first, second)] == [duck.port, other.port]
        monkeypatch.setattr(collect, "_held", [])
        with pytest.raises(InputError, match="in use by another environment"):
            collect._server(config)
        first.close()
        second.close()
    finally:
        monkeypatch.undo()
        collect._close_server()
        other.shut()


def test_options_are_checked_before_work(scenario: str, tmp_path: Path) -> None:
    for option, text in (("carla_sensors=ful", "'full'"), ("restart_every=3", "carla_root")):
        with pytest.raises(SystemExit, match=text):
            collect.main(
                [f"scenario=[{scenario}]", "backend=server", option, f"output={tmp_path / 'o'}"]
            )
