"""Where comma's TinyPhysics model and routes come from, and where they are kept.

Neither is part of steerlab: no licence is stated for them.
"""

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from steerlab.errors import InputError
from steerlab.files import atomic_path, cache_folder, writable_folder
from steerlab.readers.archives import open_archive

if TYPE_CHECKING:
    from steerlab.surrogates.fetch import Progress

_REVISION = "be8edfa"
MODEL_URL = (
    f"https://raw.githubusercontent.com/commaai/controls_challenge/{_REVISION}/"
    "models/tinyphysics.onnx"
)
MODEL_SHA256 = "5beca7f07a3e9b183b4aa0402c780ddbc985416fe50ca788017b09705b4d0705"
DATA_URL = (
    "https://huggingface.co/datasets/commaai/commaSteeringControl/resolve/main/"
    "data/SYNTHETIC_V0.zip"
)


def model_path() -> Path:
    """Return where the model is kept."""
    return cache_folder() / "tinyphysics" / "tinyphysics.onnx"


def data_path() -> Path:
    """Return the folder in which the routes are kept."""
    return cache_folder() / "tinyphysics" / "data"


def fetched(path: Path) -> Path:
    """Return ``path`` if it has been fetched.

    Raises:
        InputError: It has not.
    """
    if not path.exists():
        raise InputError(f"{str(path)!r} is not there yet; run `steerlab fetch-tinyphysics` first")
    return path


def fetch_model(source: str = MODEL_URL, sha256: str = MODEL_SHA256, **how: object) -> Path:
    """Fetch the model; see :func:`steerlab.surrogates.fetch.fetch`."""
    from steerlab.surrogates.fetch import fetch  # with it comes requests, which only this needs

    return fetch(source, model_path(), sha256, **how)  # type: ignore[arg-type]


def fetch_data(
    source: str = DATA_URL,
    sha256: str = "",
    *,
    limit: int = 0,
    unpacked: "Progress" = lambda done, total: None,
    **how: object,
) -> Path:
    """Fetch the archive of routes and unpack its CSV files into :func:`data_path`.

    Args:
        source: URL or local path of the archive.
        sha256: Its expected hash, if known; every file is checked against the archive's own sums
            in any case.
        limit: Number of routes to unpack, the first ones by name; 0 unpacks all.
        unpacked: Called with files unpacked and in total.
        how: See :func:`steerlab.surrogates.fetch.fetch`.

    Raises:
        InputError: The archive cannot be had or is damaged.
    """
    folder = data_path()
    from steerlab.surrogates.fetch import fetch

    archive_path = fetch(source, folder.with_suffix(".zip"), sha256, **how)  # type: ignore[arg-type]
    writable_folder(folder)
    try:
        with open_archive(archive_path) as archive:
            members = [m for m in archive.names if m.endswith(".csv")]
            members = sorted(members, key=lambda m: PurePosixPath(m).name)[: limit or None]
            if not members:
                raise InputError(f"{source!r} holds no CSV file; give the archive of routes")
            for count, member in enumerate(members, 1):
                target = folder / PurePosixPath(member).name
                if not target.exists() or target.stat().st_size != archive.size(member):
                    content = archive.read(member)  # checks the archive's own sum
                    with atomic_path(target) as temporary:
                        temporary.write_bytes(content)
                unpacked(count, len(members))
    except InputError as error:
        archive_path.unlink(missing_ok=True)
        raise InputError(
            f"the archive from {source!r} is damaged ({error}) and was thrown away; try again"
        ) from error
    return folder
