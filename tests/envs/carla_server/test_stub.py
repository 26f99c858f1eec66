"""Calls of CARLA's client are checked against its own stub, since no server here would miss one.

``mypy`` in the CI checks the whole package that way. Here the folder is checked by itself, which is quick, and
with misspellings planted, each of which must be found.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from steerlab.envs.carla_driver import server

pytest.importorskip("carla")

FOLDER = Path(server.__file__).parent
PLANTED = (
    ("session.py", "self.world.tick(", "self.world.tikc("),
    ("session.py", "settings.max_substeps =", "settings.max_substep ="),
    ("session.py", "client.get_available_maps", "client.get_availible_maps"),
    ("session.py", "carla.command.DestroyActor", "carla.command.DestroyActors"),
    ("session.py", "actor.attributes.get", "actor.atributes.get"),
    ("link.py", "client.get_trafficmanager", "client.get_traffic_manager"),
    ("link.py", "manager.shut_down()", "manager.shutdown()"),
    ("sensors.py", "image.raw_data", "image.raw_dat"),
    ("sensors.py", "carla.Rotation(pitch=", "carla.Rotation(pich="),
    ("chassis.py", "throttle=throttle", "throtle=throttle"),
    ("chassis.py", "wheel.max_steer_angle", "wheel.max_steering_angle"),
    ("chassis.py", "vehicle.bounding_box", "vehicle.boundingbox"),
    ("connection.py", "client.get_server_version()", "client.get_sever_version()"),
    ("backend.py", "ego.set_target_velocity", "ego.set_velocity"),
    ("backend.py", "light.get_opendrive_id", "light.get_opendrive_ID"),
    ("backend.py", "carla.TrafficLightState.Yellow", "carla.TrafficLightState.Amber"),
    ("backend.py", "library.filter(pattern)", "library.filtr(pattern)"),
    ("crowd.py", "vehicle.set_autopilot(True, port)", "vehicle.set_autopilot(True, prt=port)"),
    ("crowd.py", "pose.get_right_vector()", "pose.get_rightvector()"),
    ("simulator.py", "seen.get_velocity()", "seen.get_speed()"),
)
CONFIG = """
[mypy]
explicit_package_bases = True
check_untyped_defs = True
disallow_untyped_defs = True
ignore_missing_imports = True
follow_imports = skip
[mypy-carla.*]
follow_imports = normal
follow_untyped_imports = True
"""


#: What a wrong call is; what else mypy says comes from not following other packages.
CODES = ("attr-defined", "call-arg", "arg-type", "call-overload", "union-attr")


def mypy(folder: Path, sources: dict[str, str]) -> dict[tuple[str, int], str]:
    """Return the errors in files of the server's package, by file and line."""
    package = folder / "steerlab" / "envs" / "carla_driver" / "server"
    package.mkdir(parents=True)
    for name, text in sources.items():
        (package / name).write_text(text, encoding="utf-8")
    (folder / "mypy.ini").write_text(CONFIG)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", str(package.relative_to(folder))],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = re.findall(rf"([a-z_]+\.py):(\d+): error: (.*\[(?:{'|'.join(CODES)})\])", done.stdout)
    return {(name, int(line)): text for name, line, text in found}


@pytest.mark.slow
def test_misspelt_calls_are_found_and_there_are_none(tmp_path: Path) -> None:
    sources = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py")}
    assert mypy(tmp_path / "clean", sources) == {}
    lines = set()
    for name, right, wrong in PLANTED:
        assert right in sources[name], (name, right)
        before, after = sources[name].split(right, 1)
        sources[name] = before + wrong + after
        lines.add((name, before.count("\n") + 1))
    found = set(mypy(tmp_path / "planted", sources))
    around = {(name, line + more) for name, line in found for more in (-1, 0, 1)}  # of long calls
    missed = lines - around
    assert not missed


def test_the_package_is_checked_that_way() -> None:
    pyproject = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    (carla,) = [o for o in pyproject["tool"]["mypy"]["overrides"] if o["module"] == "carla.*"]
    assert carla["follow_untyped_imports"] is True
