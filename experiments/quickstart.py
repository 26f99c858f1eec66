"""Train a driving policy, export it for openpilot, check the files and drive them, in five minutes.

This is a small version of the whole workflow: a short training of PolicyNet on KinematicDriver-v0; ONNX,
metadata and tinygrad files; every check of verify-export; 100 held-out episodes with the exported file
in openpilot's runner; a table of results and targets; plots and a short video. Stop with Ctrl-C, and
the same command with the same output= continues.

Example:
  steerlab quickstart
"""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.agents.policynet.closed_loop import (
    PolicyFile,
    Untrained,
    check_episodes,
    join_held_out,
    start_held_out,
)
from steerlab.agents.policynet.evaluate import Figures, film_drive, held_out
from steerlab.agents.policynet.report import PLAN_STEPS, plot_plan, report
from steerlab.agents.policynet.train import ImitationConfig, check, train_imitation
from steerlab.exporters.policy import export_policy
from steerlab.exporters.safety import INTERFACE_ONLY, NOT_FOR_THE_ROAD
from steerlab.exporters.verify import Options, failed, verify_export
from steerlab.exporters.verify.report import print_checks
from steerlab.options import option
from steerlab.processes import worker_pool
from steerlab.study import study

#: Eight of the default's twenty drives: enough for the targets, and the whole takes little more than five minutes.
QUICK = ImitationConfig(total_steps=307_200)


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    contract: str = option(QUICK.contract, "release for which the policy is made")
    total_steps: int = option(QUICK.total_steps, "length of the training in steps of 0.05 s")
    episodes: int = option(100, "held-out episodes that the exported file drives")
    tinygrad: bool = option(True, "write and check the tinygrad pickle (needs clang)")
    video: bool = option(True, "write a video of three episodes")
    processes: int = option(2, "processes that drive the episodes")
    seed: int = option(0, "seed of the training")


def run(config: Config, output: Path) -> dict[str, Figures]:
    """Do it all; return the figures of the drivers."""
    check_episodes(config.episodes, config.processes)
    training = dataclasses.replace(
        QUICK, contract=config.contract, total_steps=config.total_steps, seed=config.seed
    )
    check(training)
    torch.set_num_threads(1)
    console, clock = Console(), time.perf_counter()

    def stage(text: str) -> None:
        console.print(f"[bold]{text}[/] ({time.perf_counter() - clock:.0f} s)")

    with worker_pool(config.processes) as pool:
        stage("1. training: the policy drives, the preview controller teaches")
        # One process learns. What does not need its result is driven meanwhile on another core.
        preview = start_held_out(PreviewDriver, config.episodes, 1, config.episodes, pool=pool)
        untrained = start_held_out(
            Untrained(config.contract), config.episodes, 1, config.episodes, pool=pool
        )
        network = train_imitation(training, output)
        stage("2. export")
        done = export_policy(network, output, output.name, tinygrad=config.tinygrad)
        stage("3. checks of the files; the film and the held-out episodes begin beside them")
        file, seeds = PolicyFile(str(done.onnx), config.contract), held_out().seeds(3)
        film = pool.submit(film_drive, file, output / "drive", seeds) if config.video else None
        driven = start_held_out(file, config.episodes, config.processes, pool=pool)
        checks = verify_export(
            done.onnx,
            network.contract,
            network.model.name,
            Options(tinygrad=config.tinygrad, trust_pickle=True),  # made a moment ago
        )
        print_checks(checks, console)
        plot_plan(file, output / "plan.png", seeds.start, PLAN_STEPS)
        stage(f"4. {config.episodes} held-out episodes with {done.onnx.name} in openpilot's runner")
        records = {
            "PolicyNet": join_held_out(driven, "PolicyNet"),
            "preview": join_held_out(preview, "preview controller"),
            "untrained": join_held_out(untrained, "untrained network"),
        }
        found = report(records, output)
        made = ["drivers.png", "plan.png"] + ([film.result().name] if film else [])
    stage("done")
    for note in done.notes:
        console.print(f"note: {note}")
    names = [path.name for path in done.files] + made
    console.print(f"in {output}: {', '.join(names)}", soft_wrap=True)
    console.print(f"[bold red]{NOT_FOR_THE_ROAD}[/]\n{INTERFACE_ONLY}")
    if wrong := failed(checks):
        console.print(f"[bold red]{len(wrong)} checks of the files failed, see above[/]")
    return found


main = study(Config, run, resumes=True)

if __name__ == "__main__":
    main()
