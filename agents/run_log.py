"""The one logger: TensorBoard for looking, JSON lines for reading back."""

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from steerlab.files import atomic_path, visible_change
from steerlab.readers.text import entry, read_json_lines

METRICS_FILE = "metrics.jsonl"
#: One line of the log: "step" and scalars.
Record = dict[str, Any]


class RunLog:
    """Scalars of a run, written to TensorBoard and to ``metrics.jsonl`` in the same folder.

    Args:
        folder: Where both go.
        records: What was logged before; whatever else the file held goes.
        first: Step with which the run goes on; TensorBoard drops what it has from there on.
    """

    def __init__(self, folder: str | Path, records: Sequence[Record] = (), first: int = 0) -> None:
        self.path = Path(folder, METRICS_FILE)
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(map(_line, records)), encoding="utf-8")
        self._file = self.path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder), purge_step=first or None)

    def write(self, records: Iterable[Record]) -> None:
        """Log ``records``; a slash in a name groups the curves in TensorBoard."""
        for record in records:
            for key, value in record.items():
                if key != "step":
                    self._board.add_scalar(key, value, record["step"])
            with visible_change(self.path):
                self._file.write(_line(record))
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

    def picture(self, step: int, name: str, picture: NDArray[np.uint8]) -> None:
        """Log a picture (H, W, 3)."""
        self._board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close both files."""
        self._file.close()
        self._board.close()


def read_log(folder: str | Path) -> list[Record]:
    """Return the logged lines of a run; a last line cut off by a kill is left out.

    Raises:
        InputError: A line is no record.
    """
    path = Path(folder, METRICS_FILE)
    records = read_json_lines(path) if path.exists() else []
    for record in records:
        for name in {"step", *record}:
            entry(record, name, (int, float), f"a record of {str(path)!r}")
    return records


def _line(record: Record) -> str:
    return json.dumps(record) + "\n"
