"""OpenDRIVE through carla.Map in a worker: real maps, bad maps, and no carla at all."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from steerlab.envs.maps import opendrive
from steerlab.envs.maps.opendrive import compile_text, read_opendrive
from steerlab.envs.maps.procedural import four_way_stop
from steerlab.envs.maps.road_map import SIGNAL_KINDS
from steerlab.envs.maps.xodr import to_xodr
from steerlab.errors import InputError
from steerlab.experiments.fuzz_maps import Config, run

with_carla = pytest.mark.skipif(not opendrive.has_carla(), reason="needs the extra carla")

ROAD = """<OpenDRIVE><header revMajor="1" revMinor="4"/>
<road id="3" length="100" junction="-1"><planView>
<geometry s="0" x="5" y="-7" hdg="0.5" length="100"><line/></geometry></planView>
<lanes><laneSection s="0"><center><lane id="0" type="none"/></center><right>
<lane id="-1" type="{kind}"><width sOffset="0" a="{width}" b="0" c="0" d="0"/>
<roadMark sOffset="0" type="broken" color="yellow" weight="standard" width="0.1" laneChange="none"/>
</lane></right></laneSection></lanes></road></OpenDRIVE>"""


def text(kind: str = "driving", width: str = "3") -> bytes:
    return ROAD.format(kind=kind, width=width).encode()


@with_carla
def test_one_straight_road(tmp_path: Path) -> None:
    m = compile_text(text(), "one", "one.xodr", folder=tmp_path)
    assert m.lane_source.tolist() == [[3, 0, -1]]
    # OpenDRIVE's y and angles are positive to the left; the lane's middle is 1.5 m to the right.
    start = np.array([5 + 1.5 * np.sin(0.5), 7 + 1.5 * np.cos(0.5)])
    np.testing.assert_allclose(m.points[0, :2], start, atol=1e-3)
    np.testing.assert_allclose(m.heading, -0.5, atol=1e-5)
    assert m.s[-1] == pytest.approx(100, abs=1e-3)
    assert m.right_marking.tolist() == [1] * len(m.s)  # broken
    assert m.right_colour.tolist() == [1] * len(m.s)  # yellow
    assert m.lane_limit[0] == pytest.approx(50 / 3.6)
    assert m.edge_kind.tolist() == [0, 0]


@with_carla
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"<a/>", "no roads with lanes"),
        (b"", "ParseError: no element found"),
        (text("sidewalk"), "no lane that cars can drive on"),
        (text(width="nan"), "not on this earth|not finite|RuntimeError"),
        (text().replace(b'length="100"', b'length="1e12"'), "length 1e\\+12 m"),
    ],
)
def test_bad_files_are_named(given: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"bad.xodr.*({message})"):
        compile_text(given, "bad", "bad.xodr", folder=tmp_path)
    assert not list(tmp_path.glob("*.npz"))


@with_carla
def test_compiled_maps_are_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "road.xodr"
    path.write_bytes(text())
    first = read_opendrive(path, folder=tmp_path / "cache")
    (kept,) = (tmp_path / "cache").glob("*.npz")
    kept.write_bytes(kept.read_bytes()[:-100])  # damaged: compiled anew
    assert read_opendrive(path, folder=tmp_path / "cache").hash == first.hash
    monkeypatch.setattr(opendrive, "_run", None)  # from the cache, or this would be called
    assert read_opendrive(path, folder=tmp_path / "cache").hash == first.hash
    path.write_bytes(text(width="4"))
    with pytest.raises(TypeError):
        read_opendrive(path, folder=tmp_path / "cache")


SPIN = (
    "import sys; from steerlab.envs.maps import _compile; "
    "_compile.compile_map = lambda *_: list(iter(int, 1)); _compile.main(*sys.argv[3:])"
)
WORKERS: dict[str, tuple[str, str]] = {
    "hang": ("import time; time.sleep(60)", "was not done with it after 1 s"),
    "spin": (SPIN, "was not done with it after 1 s of computing"),
    "crash": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed on it .SIGSEGV"),
    "error": ("raise IndexError('map::at')", "cannot be compiled: IndexError: map::at"),
    "silence": ("import os; os._exit(3)", "cannot be compiled: exit status 3"),
}


@pytest.mark.parametrize("name", WORKERS)
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_every_way_to_fail_is_one_clear_error(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, message = WORKERS[name]
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -c {code!r} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(opendrive, "find_spec", lambda name: True)
    monkeypatch.setattr(opendrive.sys, "executable", str(script))
    if name == "hang":
        monkeypatch.setattr(opendrive, "PATIENCE", 1)
    begun = time.monotonic()
    with pytest.raises(InputError, match=message):
        compile_text(
            text(), "x", "x.xodr", 1.0 if name in ("hang", "spin") else 20.0, tmp_path / "cache"
        )
    assert time.monotonic() - begun < 15


@with_carla
@pytest.mark.skipif(sys.platform == "win32", reason="no limit of memory on Windows")
def test_a_worker_cannot_eat_the_memory(tmp_path: Path) -> None:
    sections = "".join(f'<laneSection s="{i}"/>' for i in range(0, 90000, 10)).encode()
    many = (
        text()
        .replace(b'length="100"', b'length="99999"')
        .replace(b"</lanes>", sections + b"</lanes>")
    )
    with pytest.raises(InputError, match=r"big\.xodr"):
        compile_text(many, "big", "big.xodr", folder=tmp_path)


def test_without_carla_one_line_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opendrive, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"road.xodr.*pip install 'steerlab\[carla\]'"):
        compile_text(text(), "road", "road.xodr", folder=tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read map .*absent\.xodr"):
        read_opendrive(tmp_path / "absent.xodr")


#: Lanes to drive on, junctions and lights by map; counted in the files by hand with grep.
FACTS = {
    "Town01": (124, 12, 36),
    "e6mini": (6, 0, 0),
    "soderleden": (11, 0, 0),
    "Town04": (463, 27, 43),
    "Town06": (467, 23, 19),
    "Town10HD": (168, 9, 17),
}


@with_carla
@pytest.mark.parametrize(
    "name",
    [
        "Town01",
        "e6mini",
        "soderleden",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("Town04", "Town06", "Town10HD")),
    ],
)
def test_shared_maps(name: str, shared: Path, tmp_path: Path) -> None:
    m = read_opendrive(shared / "opendrive" / f"{name}.xodr", 120.0, tmp_path)
    drivable, junctions, lights = FACTS[name]
    assert m.drivable.sum() == drivable
    assert len(m.junction_id) == junctions
    assert (m.signal_kind == SIGNAL_KINDS.index("traffic_light")).sum() == lights
    for lane in np.flatnonzero(m.drivable):
        for other in m.successors[m.successor_start[lane] : m.successor_start[lane + 1]]:
            gap = m.points[m.lane(lane).stop - 1] - m.points[m.lane(other).start]
            assert np.linalg.norm(gap) < 2.0
    # Where signals have lanes, they look the way the cars drive.
    for signal in range(len(m.signal_kind)):
        for stop in range(m.stop_start[signal], m.stop_start[signal + 1]):
            part = m.lane(m.stop_lane[stop])
            heading = np.interp(m.stop_s[stop], m.s[part], m.heading[part])
            if name == "Town01":
                assert np.cos(heading - m.signal_heading[signal]) > 0.99


@with_carla
@pytest.mark.slow
@pytest.mark.parametrize("count", [4, pytest.param(1000, marks=pytest.mark.exhaustive)])
def test_mutated_maps_never_bring_us_down(count: int, tmp_path: Path) -> None:
    """``STEERLAB_MUTATIONS`` sets how many the exhaustive test takes."""
    (tmp_path / "town.xodr").write_text(to_xodr(four_way_stop()))
    (tmp_path / "one.xodr").write_bytes(text())
    maps = (str(tmp_path / "one.xodr"), str(tmp_path / "town.xodr"))
    if count > 4:
        count = int(os.environ.get("STEERLAB_MUTATIONS", count))
    begun = time.monotonic()
    outcomes = run(Config(maps=maps, count=count, seed=1, seconds=18.0), tmp_path)
    assert sum(outcomes.values()) == count
    assert time.monotonic() - begun < 20 * count
