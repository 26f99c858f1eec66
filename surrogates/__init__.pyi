# The public names of this package; each is imported when it is first used.
from .logs.extract import extract_log as extract_log
from .logs.pipeline import extract_all as extract_all
from .logs.reader import read_log as read_log
from .logs.routes import find_logs as find_logs
from .plants.analytic import AnalyticPlant as AnalyticPlant
from .plants.base import Plant as Plant
from .plants.gru import GruSurrogate as GruSurrogate
from .plants.load import load_plant as load_plant
from .plants.onnx import OnnxPlant as OnnxPlant
from .plants.tcn import TcnSurrogate as TcnSurrogate
from .plants.torch import TorchPlant as TorchPlant
from .segments.data import Segments as Segments, load_segments as load_segments
from .segments.synthetic import (
    find_segments as find_segments,
    synthetic_segments as synthetic_segments,
)
from .simulated_cars import synthetic_drives as synthetic_drives
