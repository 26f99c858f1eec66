"""Download comma's TinyPhysics model and routes to the cache.

The files belong to comma, which states no licence for them, so they are not part of steerlab.
Afterwards `plant=comma segments=comma` use them in every study. An interrupted download continues
when the same command runs again. The cache is the user's cache folder, or the folder in the
environment variable STEERLAB_CACHE.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from steerlab.options import option
from steerlab.study import study
from steerlab.surrogates.fetch import Progress
from steerlab.surrogates.segments import comma


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    model: str = option(comma.MODEL_URL, "URL, mirror or local path of the model; '' skips it")
    model_sha256: str = option(comma.MODEL_SHA256, "expected hash of the model; '' = any")
    data: str = option(
        comma.DATA_URL, "URL, mirror or local path of the zip of routes (0.6 GB); '' skips it"
    )
    data_sha256: str = option("", "expected hash of the zip; '' = any")
    num_segments: int = option(0, "routes to unpack, the first ones by name; 0 = all")


def run(config: Config, output: Path | None) -> None:
    """Fetch what is asked for and say where it is."""
    if config.model:
        with _bar("model") as move:
            path = comma.fetch_model(config.model, config.model_sha256, progress=move)
        print(f"model:  {path}")
    if config.data:
        with _bar("routes") as move, _bar("unpacking", "file") as count:
            path = comma.fetch_data(
                config.data,
                config.data_sha256,
                limit=config.num_segments,
                progress=move,
                unpacked=count,
            )
        print(f"routes: {path} ({len(list(path.glob('*.csv')))} segments)")


@contextmanager
def _bar(name: str, unit: str = "B") -> Iterator[Progress]:
    """Yield a function that moves a progress bar to where the work is."""
    with tqdm(desc=name, unit=unit, unit_scale=unit == "B", unit_divisor=1024) as bar:

        def move(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        yield move


main = study(Config, run, folder=False)

if __name__ == "__main__":
    main()
