"""Road maps as plain arrays: compiled once from OpenDRIVE, or generated."""

from pathlib import Path

from steerlab.envs.maps.opendrive import read_opendrive
from steerlab.envs.maps.procedural import DRAWINGS, shipped
from steerlab.envs.maps.road_map import RoadMap, load, save, validate
from steerlab.errors import unknown_name

__all__ = ["SHIPPED", "RoadMap", "load", "load_map", "read_opendrive", "save", "validate"]

#: Names of the maps that ship with the package.
SHIPPED = tuple(DRAWINGS)


def load_map(name: str | Path) -> RoadMap:
    """Return a shipped map by its name, or the map of an ``.xodr`` or ``.npz`` file.

    Raises:
        InputError: There is no such map, or its file cannot be read.
    """
    suffix = Path(name).suffix
    if suffix == ".xodr":
        return read_opendrive(name)
    if suffix == ".npz":
        return load(name)
    if str(name) not in DRAWINGS:
        raise unknown_name("map", str(name), [*SHIPPED, "any path that ends in .xodr or .npz"])
    return shipped(str(name))
