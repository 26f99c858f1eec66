"""What the checks share: results, options, and what is known of the file so far."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from steerlab.errors import InputError
from steerlab.openpilot.contracts import Contract, Model
from steerlab.openpilot.engines import Network, OnnxEngine
from steerlab.openpilot.onnx_file import dimensions, graph_inputs
from steerlab.openpilot.outputs import parse
from steerlab.openpilot.probe import Probe
from steerlab.types import Array

PASS, FAIL, SKIP, NOTE = "pass", "FAIL", "skip", "note"


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    name: str
    status: str  # pass, FAIL, skip (could not or need not run) or note (no verdict)
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Options:
    """What a verification may do, and where it finds things."""

    probe: str = ""  # npz; '' takes <stem>_probe.npz if it exists
    metadata: str = ""  # '' takes <stem>_metadata.pkl
    pickle: str = ""  # '' takes <stem>_tinygrad.pkl if it exists
    untrained: bool = False  # do not expect a plan that drives
    tinygrad: bool = True  # run the graph in tinygrad
    trust_pickle: bool = False
    tinygrad_path: str | None = None
    latency_ms: float = 50.0
    runs: int = 200  # for the latency
    #: Drives a network in a closed loop and returns its figures; None leaves that check out.
    drive: Callable[[Network], Mapping[str, float]] | None = None


class Skip(Exception):
    """A check that cannot or need not run."""


class Note(Exception):
    """Something worth saying that is no verdict on the file."""


class Fail(Exception):
    """A check that failed: what was found, how to mend it."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(found)
        self.remedy = remedy


@dataclass
class Subject:
    """What is known of the file, filled by one check after the other."""

    path: Path
    contract: Contract
    model: Model
    options: Options
    proto: onnx.ModelProto
    others: list[str] = field(default_factory=list)  # other files that hold weights
    slices: dict[str, slice] | None = None
    length: int | None = None
    engine: OnnxEngine | None = None
    probe: Probe | None = None
    outputs: list[Array] = field(default_factory=list)

    def beside(self, name: str, chosen: str) -> Path:
        """Return the path that was chosen, or that of ``<stem>_<name>``."""
        return Path(chosen) if chosen else self.path.with_name(f"{self.path.stem}_{name}")

    @property
    def inputs(self) -> dict[str, Any]:
        """Inputs of the graph by name."""
        return graph_inputs(self.proto)

    def feeds(self, probe: Probe, k: int) -> dict[str, Array]:
        """Return one set of inputs for the graph, as the consumer would feed it.

        Raises:
            Fail: The consumer cannot feed an input.
        """
        row = probe.row(self.model, k)
        inputs = self.inputs
        if self.model.name == "driving_vision" and inputs.keys() != row.keys():
            return {n: row["big_img" if "big" in n else "img"] for n in inputs}
        zeros = {}
        if self.contract.feeds_zeros_to_unknown_inputs:
            for name in inputs.keys() - row.keys():
                shape = dimensions(inputs[name])
                if not all(isinstance(d, int) for d in shape):
                    raise Fail(
                        f"{name} has the free axis {shape}", "export with static shapes, batch 1"
                    )
                zeros[name] = np.zeros([int(d) for d in shape], np.float32)
        return {n: a for n, a in row.items() if n in inputs} | zeros

    def rows(self, probe: Probe) -> list[dict[str, Array]]:
        """Return every set of inputs of a probe."""
        return [self.feeds(probe, k) for k in range(probe.count)]

    @property
    def known(self) -> Probe:
        """The inputs on which the graph ran.

        Raises:
            Skip: It did not run.
        """
        if self.probe is None:
            raise Skip("the graph does not run")
        return self.probe

    def ran(self) -> Array:
        """Return the outputs (K, N) of the graph.

        Raises:
            Skip: It did not run.
        """
        if not self.outputs or self.engine is None:
            raise Skip("the graph does not run")
        return np.array(self.outputs)

    def heads(self) -> dict[str, slice]:
        """Return the slices.

        Raises:
            Skip: There are none, or no consumer reads heads of their widths.
        """
        if self.slices is None:
            raise Skip("no slices")
        try:
            parse(self.slices, self.ran()[:1])
        except InputError as error:
            raise Skip("the heads have widths that no consumer knows") from error
        return self.slices

    def parsed(self) -> dict[str, Array]:
        """Return what the consumer reads from the outputs."""
        return parse(self.heads(), self.ran())

    def plan(self) -> Array:
        """Return the plans (K, 33, 15).

        Raises:
            Skip: The network has none, or it did not run.
        """
        if "plan" not in self.heads():
            raise Skip("this network has no plan")
        return self.parsed()["plan"].astype(float)
