"""Check a model file against the contract of an openpilot or sunnypilot release.

Prints one line for each check with its result and its remedy, and ends with an error if any check
fails. It accepts files of any origin. Only the ONNX graph, and metadata in a restricted loader, are
read; no pickle is executed unless trust_pickle=true, and then in a separate process. A pickle fits
one version of tinygrad: without tinygrad_path= of the target, "drop-in" applies to ONNX and metadata
only. Contracts: openpilot-0.10.0, sunnypilot-2025-08, openpilot-0.10.1, openpilot-0.11.0,
openpilot-supercombo-2026-06, openpilot-supercombo-2026-07, openpilot-supercombo-2026-09. None of
the checks says whether a model may steer a car.

Examples:
  steerlab verify-export model=output/driving_policy.onnx
  steerlab verify-export model=driving_vision.onnx contract=openpilot-0.10.1 tinygrad=false
  steerlab verify-export model=pair/driving_policy.onnx vision=pair/driving_vision.onnx episodes=10
  steerlab verify-export model=driving_policy.onnx trust_pickle=true tinygrad_path=openpilot/tinygrad_repo
"""

import dataclasses
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from tqdm.auto import tqdm

from steerlab.agents.drivingpolicy.closed_loop import pair_loop
from steerlab.agents.policynet.closed_loop import closed_loop
from steerlab.agents.policynet.evaluate import held_out
from steerlab.errors import InputError
from steerlab.exporters.verify import (
    PASS,
    Check,
    Options,
    check_names,
    failed,
    verify_export,
)
from steerlab.exporters.verify.report import print_checks
from steerlab.files import write_json
from steerlab.openpilot.contracts import contract
from steerlab.options import option
from steerlab.study import study


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    model: str = option("", "the ONNX file")
    contract: str = option("openpilot-0.10.0", "the release whose contract is checked")
    network: str = option(
        "", "driving_policy, driving_vision or driving_supercombo; '' = found from the file"
    )
    metadata: str = option("", "metadata file; '' takes <model>_metadata.pkl")
    pickle: str = option("", "tinygrad pickle; '' takes <model>_tinygrad.pkl")
    probe: str = option("", "recorded inputs and outputs (npz); '' takes <model>_probe.npz")
    untrained: bool = option(False, "do not expect the plan to drive")
    tinygrad: bool = option(True, "also run the graph in tinygrad (needs clang)")
    trust_pickle: bool = option(False, "load the tinygrad pickle, which executes what is in it")
    tinygrad_path: str = option("", "folder of the target's tinygrad; '' takes the installed one")
    latency_ms: float = option(50.0, "largest accepted median time of a run with one thread, ms")
    episodes: int = option(0, "held-out episodes that a policy drives in float32 and in float16, of "
                           "KinematicDriver-v0 or, if it sees pictures, of CarlaDriver-v0; 0 = none")  # fmt: skip
    vision: str = option("", "ONNX file of the vision network with which a policy for pictures drives "
                         "these episodes; a supercombo needs none")  # fmt: skip


def run(config: Config, output: Path) -> list[Check]:
    """Check, print the table, write checks.json, exit non-zero if a check failed."""
    if not config.model:
        raise InputError("model= is missing; give the path of an ONNX file")
    if config.latency_ms <= 0:
        raise InputError(f"latency_ms={config.latency_ms} must be positive")
    chosen = contract(config.contract)
    if config.episodes:
        held_out().seeds(config.episodes)
    elif config.vision:
        raise InputError("vision= needs episodes=, the number of episodes to drive with it")
    if config.vision and not chosen.is_split:
        raise InputError(f"vision= is not for {chosen.id}: its network sees the pictures itself")
    pictures = config.vision or not chosen.is_split
    loop = partial(pair_loop, vision=config.vision) if pictures else closed_loop
    options = Options(
        probe=config.probe,
        metadata=config.metadata,
        pickle=config.pickle,
        untrained=config.untrained,
        tinygrad=config.tinygrad,
        trust_pickle=config.trust_pickle,
        tinygrad_path=config.tinygrad_path or None,
        latency_ms=config.latency_ms,
        drive=loop(config.contract, config.episodes) if config.episodes else None,
    )
    with tqdm(total=len(check_names()), unit="check", leave=False) as bar:

        def progress(name: str) -> None:
            bar.set_description(name)
            bar.update()

        results = verify_export(config.model, chosen, config.network, options, progress)
    _print_table(config, results)
    write_json(output / "checks.json", [dataclasses.asdict(r) for r in results])
    if wrong := failed(results):
        sys.exit(f"{len(wrong)} of {len(results)} checks failed: {config.model} is no drop-in")
    return results


def _print_table(config: Config, results: list[Check]) -> None:
    console = Console()
    print_checks(results, console, f"{config.model} for {config.contract}")
    status = {r.name: r for r in results}
    if not failed(results):
        pickles = status["tinygrad pickle"].status == PASS and config.tinygrad_path
        files = f", and the pickle for {config.tinygrad_path}" if pickles else " only"
        console.print(escape(f"drop-in for {config.contract}: ONNX and metadata{files}"))
    console.print(f"[bold red]{escape(status['road'].found)}[/]")


main = study(Config, run)

if __name__ == "__main__":
    main()
