"""Load a plant by name or path, for a runtime."""

from pathlib import Path

from steerlab.errors import unknown_name
from steerlab.surrogates.plants.analytic import AnalyticPlant
from steerlab.surrogates.plants.base import Plant
from steerlab.surrogates.plants.onnx import OnnxPlant
from steerlab.surrogates.segments.comma import fetched, model_path

RUNTIMES = ("exact", "fast", "torch")


#: The bundled plant; default_plant.md beside it says how it was made.
DEFAULT_PLANT = Path(__file__).with_name("default_plant.onnx")


def load_plant(plant: str | Path | Plant, runtime: str = "exact", device: str = "auto") -> Plant:
    """Return a plant ready to run.

    Args:
        plant: "default" (the bundled one), "analytic", "comma" (as fetched), the path of an ONNX
            file, or a plant.
        runtime: "exact" (onnxruntime, the graph as it is), "fast" (onnxruntime, last position
            only) or "torch"; has no meaning for the analytic plant.
        device: Device of the torch runtime: auto, cpu or cuda.

    Raises:
        InputError: The plant or runtime is unknown, or the file is not valid.
    """
    if isinstance(plant, Plant):
        return plant
    if runtime not in RUNTIMES:
        raise unknown_name("runtime", runtime, RUNTIMES)
    if str(plant) == "analytic":
        return AnalyticPlant()
    if str(plant) == "default":
        plant = DEFAULT_PLANT
    elif str(plant) == "comma":
        plant = fetched(model_path())
    if runtime == "torch":
        from steerlab.surrogates.plants.torch import TorchPlant

        return TorchPlant(plant, device)
    return OnnxPlant(plant, fast=runtime == "fast")
