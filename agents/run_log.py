"""The one logger: TensorBoard for looking, JSON lines for reading back."""

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from steerlab.files import atomic_path

METRICS_FILE = "metrics.jsonl"


class RunLog:
    """Scalars of a run, written to TensorBoard and to ``metrics.jsonl`` in the same folder.

    A resumed run passes the step it starts from; what was logged at or after that step by the
    interrupted run is dropped, so the log reads as if there had been no interruption.
    """

    def __init__(self, folder: str | Path, resume_step: int | None = None) -> None:
        self.path = Path(folder, METRICS_FILE)
        kept = (
            [] if resume_step is None else [r for r in read_log(folder) if r["step"] < resume_step]
        )
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
        self._file = self.path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder), purge_step=resume_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log ``values`` at ``step``; a slash in a name groups the curves in TensorBoard."""
        values = {key: float(value) for key, value in values.items()}
        for key, value in values.items():
            self._board.add_scalar(key, value, step)
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def film(
        self, step: int, name: str, pictures: Iterable[NDArray[np.uint8]], rate: float
    ) -> None:
        """Log a film of pictures (H, W, 3), ``rate`` a second: TensorBoard shows GIFs as images."""
        frames = [Image.fromarray(picture).quantize(64) for picture in pictures]
        if not frames:
            return
        data = io.BytesIO()
        frames[0].save(
            data, "GIF", save_all=True, append_images=frames[1:], duration=int(1000 / rate), loop=0
        )
        image = Summary.Image(
            height=frames[0].height, width=frames[0].width, colorspace=3,
            encoded_image_string=data.getvalue(),
        )  # fmt: skip
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        self._board._get_file_writer().add_summary(summary, step)

    def close(self) -> None:
        """Flush and close both files."""
        self._file.close()
        self._board.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """Return the logged lines of a run; a last line cut off by a kill is left out."""
    path = Path(folder, METRICS_FILE)
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
