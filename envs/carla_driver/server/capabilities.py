"""What the versions of CARLA differ in, as one table.

Sources: the client of 0.9.16, its stub and its documentation; for 0.10.0 (Unreal Engine 5) the release
notes and the symbols of its client. Neither was tried on a running server.
"""

import re
from dataclasses import dataclass

from steerlab.errors import InputError


@dataclass(frozen=True)
class Capabilities:
    """What a version of CARLA offers."""

    version: str
    #: Map that takes the place of a scenario's town where the server lacks it.
    substitute: str | None
    #: Blueprints of the ego vehicle, the best first; after them any car is taken.
    vehicles: tuple[str, ...]
    #: Lowest sun, degrees above the horizon.
    lowest_sun: float
    #: Whether a map can be made from an OpenDRIVE text.
    opendrive_world: bool
    #: Field of ``WheelPhysicsControl`` with the place of the wheel in the world.
    wheel_place: str
    #: Whether cameras have the attribute that switches Unreal's effects of a lens off.
    lens_attributes: bool
    #: Names of 0.9.16's client that this version's client lacks.
    missing: tuple[str, ...]
    #: Names of the program in the release's folder, Linux and Windows.
    programs: tuple[str, str]


TABLE = {
    "0.9.16": Capabilities(
        version="0.9.16",
        substitute=None,
        vehicles=("vehicle.lincoln.mkz_2020", "vehicle.lincoln.mkz*", "vehicle.tesla.model3"),
        lowest_sun=-90.0,
        opendrive_world=True,
        wheel_place="position",
        lens_attributes=True,
        missing=(),
        programs=("CarlaUE4.sh", "CarlaUE4.exe"),
    ),
    "0.10.0": Capabilities(
        version="0.10.0",
        substitute="Town10HD_Opt",
        vehicles=("vehicle.lincoln.mkz*", "vehicle.dodge.charger*", "vehicle.nissan.patrol*"),
        lowest_sun=10.0,
        opendrive_world=False,
        wheel_place="location",
        lens_attributes=False,
        missing=("Osm2Odr", "GearPhysicsControl", "inverse_transform", "get_lightmanager"),
        programs=("CarlaUnreal.sh", "CarlaUnreal.exe"),
    ),
}


def number(version: str) -> str | None:
    """Return the three numbers of a version such as ``0.9.16-12-gabc``, or None."""
    found = re.search(r"\d+\.\d+\.\d+", version)
    return found.group() if found else None


def capabilities(client: str, server: str) -> Capabilities:
    """Return what a client and a server of these versions can do together.

    Raises:
        InputError: They differ, or the version is not in :data:`TABLE`.
    """
    known = TABLE.get(number(server) or "")
    if number(client) != number(server):
        remedy = (
            f"install the client of the server: {INSTALL.get(number(server) or '', INSTALL[''])}"
        )
        raise InputError(
            f"the CARLA client has version {client} and the server {server}, which do not work "
            f"together; {remedy}, or start a server of version {client}"
        )
    if known is None:
        raise InputError(
            f"the CARLA server has version {server}; steerlab knows {', '.join(TABLE)}: start one of "
            "these"
        )
    return known


#: How to get the client of a version.
INSTALL = {
    "0.9.16": "pip install 'steerlab[carla]'",
    "0.10.0": (
        "pip install the wheel in PythonAPI/carla/dist of the release's folder (0.10.0 is not on the "
        "package index)"
    ),
    "": "pip install the wheel in PythonAPI/carla/dist of its release's folder",
}
