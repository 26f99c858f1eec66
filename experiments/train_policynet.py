"""Train PolicyNet on KinematicDriver-v0 and write the files that openpilot's modeld loads.

DAgger by default: the policy drives through the plan that it shows openpilot, a teacher says what it
would have done. With recipe=ppo reinforcement learning maximises the mean return or its CVaR, from
random weights or from a trained policy. After every drive a checkpoint is written: stop with Ctrl-C,
and the same command with the same output= goes on, with the numbers of an uninterrupted run. At the
end the policy is exported, and the ONNX file drives held-out episodes through openpilot's runner.

Files: driving_policy.onnx, driving_policy_metadata.pkl, driving_policy_tinygrad.pkl,
driving_policy_fp16.onnx, policy_model.pth, held_out.json, drivers.png, plan.png.

Examples:
  steerlab train-policynet
  steerlab train-policynet episodes=2000 contract=openpilot-0.10.1
  steerlab train-policynet teacher=runs/train_kinematic_driver/mine
  steerlab train-policynet recipe=ppo start=runs/mine/policy_model.pth ppo.alpha=0.05
  steerlab train-policynet dry_run=true
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console

from steerlab.agents.policynet.closed_loop import (
    PolicyFile,
    check_episodes,
    drive_held_out,
    drive_preview,
    drive_untrained,
)
from steerlab.agents.policynet.evaluate import Figures, held_out
from steerlab.agents.policynet.model import PolicyNet
from steerlab.agents.policynet.ppo import PPOConfig, check_ppo, train_ppo
from steerlab.agents.policynet.report import PLAN_STEPS, plot_plan, report
from steerlab.agents.policynet.train import ImitationConfig, check, train_imitation
from steerlab.errors import InputError, unknown_name
from steerlab.exporters.policy import export_policy
from steerlab.exporters.safety import INTERFACE_ONLY, NOT_FOR_THE_ROAD
from steerlab.openpilot.engines import Network
from steerlab.openpilot.network_file import NetworkFile
from steerlab.options import option
from steerlab.study import study

EPISODE = 500  # steps
ENV = "KinematicDriver-v0"


@dataclass(frozen=True)
class Config(ImitationConfig):
    """Options of the study."""

    recipe: str = option(
        "dagger", "dagger (imitate the teacher) or ppo (fine-tune by reinforcement)"
    )
    start: str = option("", "policy_model.pth to begin with, with its widths; '' = random weights")
    ppo: PPOConfig = field(default_factory=PPOConfig)
    env: str = option(ENV, "the task")
    vision_model: str = option("", "a vision model that looks at the rendered road and makes the "
                               "features, ONNX file or tinygrad pickle; '' takes the fixed encoder")  # fmt: skip
    vision_metadata: str = option(
        "", "metadata of a pickle; '' = <name>_metadata.pkl beside <name>_tinygrad.pkl"
    )
    trust_pickle: bool = option(False, "load the vision pickle, which executes what is in it")
    tinygrad_path: str = option("", "folder of the tinygrad that made it; '' = the installed one")
    episodes: int = option(0, "length of the training in episodes of 500 steps; 0 = total_steps")
    dry_run: bool = option(False, "two short drives and few episodes: is everything in place?")
    roads: int = option(1000, "held-out episodes that the exported policy drives at the end")
    processes: int = option(2, "processes that drive them")
    tinygrad: bool = option(True, "write the tinygrad pickle too (needs clang)")
    threads: int = option(1, "threads of torch; more of them slow small networks down")


def run(config: Config, output: Path) -> Figures:
    """Train or go on training, export, drive; return the figures of the exported policy."""
    config = settled(config)
    check_episodes(config.roads, config.processes)
    torch.set_num_threads(config.threads)
    seen = NetworkFile(
        config.vision_model, config.vision_metadata, config.trust_pickle, config.tinygrad_path
    )
    vision = seen.open() if config.vision_model else None
    network = RECIPES[config.recipe](config, output, vision)
    done = export_policy(
        network,
        output,
        output.name,
        vision="" if seen.is_pickle else config.vision_model,
        probe_vision=vision if seen.is_pickle else None,
        tinygrad=config.tinygrad,
    )
    file = PolicyFile(str(done.onnx), config.contract, seen)
    records = {
        "PolicyNet": drive_held_out(file, config.roads, "PolicyNet", config.processes),
        "preview": drive_preview(config.roads),
        "untrained": drive_untrained(config.contract, config.roads),
    }
    found = report(records, output)
    seed = held_out().first_seed
    plot_plan(file, output / "plan.png", seed, PLAN_STEPS)
    console = Console()
    for note in done.notes:
        console.print(note)
    console.print(f"files: {', '.join(path.name for path in done.files)} in {output}")
    console.print(
        f"check them: steerlab verify-export model={done.onnx} contract={config.contract}"
    )
    console.print(f"curves: tensorboard --logdir {output}")
    console.print(f"[bold red]{NOT_FOR_THE_ROAD}[/]\n{INTERFACE_ONLY}")
    return found["PolicyNet"]


def _dagger(config: Config, output: Path, vision: Network | None) -> PolicyNet:
    return train_imitation(config, output, vision=vision, start=config.start or None)


def _ppo(config: Config, output: Path, vision: Network | None) -> PolicyNet:
    return train_ppo(config, config.ppo, output, config.start or None, vision=vision)


RECIPES = {"dagger": _dagger, "ppo": _ppo}


def settled(config: Config) -> Config:
    """Return the options with ``episodes`` and ``dry_run`` worked in.

    Raises:
        InputError: An option is out of range.
    """
    if config.recipe not in RECIPES:
        raise unknown_name("recipe", config.recipe, RECIPES)
    if config.env != ENV:
        raise unknown_name("env", config.env, (ENV,))
    if config.episodes < 0:
        raise InputError(f"episodes={config.episodes} must be at least 0")
    if config.episodes:
        config = dataclasses.replace(config, total_steps=config.episodes * EPISODE)
    if config.dry_run:
        rows, steps = min(config.num_envs, 8), min(config.steps, 120)
        config = dataclasses.replace(
            config, num_envs=rows, steps=steps, total_steps=2 * rows * steps, epochs=1.0,
            batch_size=16, roads=2, processes=1,
        )  # fmt: skip
        if config.recipe == "ppo":
            rows, steps = min(config.ppo.num_envs, 4), min(config.ppo.steps, 60)
            ppo = dataclasses.replace(
                config.ppo, num_envs=rows, steps=steps, epochs=1.0, batch_size=16, critic_first=1
            )
            config = dataclasses.replace(config, ppo=ppo, total_steps=3 * rows * steps)
    if config.recipe == "ppo":
        check_ppo(config, config.ppo)
    else:
        check(config)
    return config


main = study(Config, run, resumes=True)

if __name__ == "__main__":
    main()
