# The public names of this package; each is imported when it is first used.
from .commands import Command as Command, command as command
from .contracts import Contract as Contract, contract as contract, contract_ids as contract_ids
from .engines import (
    Network as Network,
    OnnxEngine as OnnxEngine,
    TorchEngine as TorchEngine,
    load_network as load_network,
)
from .images import image_pair as image_pair, pack_yuv as pack_yuv
from .metadata import Metadata as Metadata, read_metadata as read_metadata
from .outputs import pack as pack, parse as parse
from .plan import PlanShape as PlanShape
from .probe import Probe as Probe, read_probe as read_probe
from .runner import Runner as Runner
from .tinygrad import TinygradEngine as TinygradEngine
