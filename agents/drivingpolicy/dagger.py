"""DAgger with pictures: the pair drives CarlaDriver, the teacher labels every frame, the policy learns anew.

A round collects episodes that the pair of the round before drives (Ross, Gordon and Bagnell 2011), in turns
with the teacher at first, and trains a policy from random weights on all shards so far. Its flat outputs go
through openpilot's runner, as those of the exported files do. A round follows from the checkpoint before it
and its number: what is stopped goes on with the episodes and epochs that are missing.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tqdm.auto import tqdm

from steerlab.agents.classical.route_driver import route_driver
from steerlab.agents.driving import FOLDER, load_driving, load_vision, save_driving
from steerlab.agents.drivingpolicy.checkpoint import policy_of, policy_part
from steerlab.agents.drivingpolicy.data import Windows
from steerlab.agents.drivingpolicy.driver import MixedDriver, PairDriver, packed, torch_policy
from steerlab.agents.drivingpolicy.network import DrivingPolicy
from steerlab.agents.drivingpolicy.training import (
    DaggerOptions,
    StageOptions,
    seen_by,
    settings_of,
    train_policy,
)
from steerlab.agents.visionnet.network import VisionNet
from steerlab.devices import torch_device
from steerlab.envs.carla_driver.collecting import Disturbance, Episode, collect
from steerlab.envs.carla_driver.env import CarlaDriverVectorEnv
from steerlab.envs.carla_driver.scenarios import as_scenario
from steerlab.envs.shards.read import Shard, open_shard
from steerlab.envs.shards.write import clear_pending
from steerlab.errors import InputError
from steerlab.files import writable_folder
from steerlab.openpilot.contracts import CommandRule
from steerlab.processes import in_order, one_thread
from steerlab.seeds import episode_seed


def check_dagger(options: DaggerOptions, at_least: int = 0) -> None:
    """Refuse impossible options before anything is driven.

    Args:
        options: What is asked for.
        at_least: Rounds that there have to be.

    Raises:
        InputError: An option is out of range, or a scenario is unknown.
    """
    if options.rounds < at_least:
        raise InputError(f"dagger.rounds={options.rounds} must be at least {at_least}")
    if options.episodes < 1:
        raise InputError(f"dagger.episodes={options.episodes} must be at least 1")
    if not 10 <= options.steps <= 4000:
        raise InputError(f"dagger.steps={options.steps} must be in 10..4000")
    for name in ("teacher", "disturbed"):
        if not 0 <= getattr(options, name) <= 1:
            raise InputError(f"dagger.{name}={getattr(options, name)} must be in [0, 1]")
    for name, unit in (("takeover", "m"), ("overspeed", "m/s")):
        if not getattr(options, name) > 0:
            raise InputError(
                f"dagger.{name}={getattr(options, name)} must be positive, in {unit}, or inf"
            )
    if options.rounds and not options.scenario:
        raise InputError("dagger.scenario=[...] needs at least one name")
    for scenario in options.scenario:
        as_scenario(scenario)


def dagger_stage(
    options: StageOptions,
    checkpoint: str | Path,
    train: Sequence[Shard],
    valid: Sequence[Shard],
    output: str | Path,
) -> Path:
    """Go through the rounds, each in ``output/dagger/round_NN``; return the last checkpoint.

    Args:
        options: Options of the study.
        checkpoint: The pair that drives the first round.
        train: Shards that are learned from besides.
        valid: Shards to choose the best epoch of each round by.
        output: Folder of the run.

    Raises:
        InputError: An option is out of range, or the checkpoint is no whole pair.
    """
    told, rounds = options.dagger, options.dagger.rounds
    check_dagger(told)
    settings = settings_of(
        options.policy, options.diffusion, contract=options.contract, seed=options.seed,
        device=options.device,
    )  # fmt: skip
    start = load_driving(checkpoint)
    vision, policy = load_vision(checkpoint), policy_of(start["policy"], checkpoint)
    on_device = load_vision(checkpoint, torch_device(options.device))
    seen_of = partial(seen_by, on_device, cache=options.cache, mirror=options.policy.mirror)
    seen, judged = seen_of(train), Windows(seen_by(on_device, valid, options.cache))
    path, epoch = Path(checkpoint), int(start["told"].get("epoch", 0))
    for number in range(1, rounds + 1):
        folder = Path(output) / "dagger" / f"round_{number:02d}"
        share = told.teacher * (1.0 - (number - 1) / max(rounds - 1, 1))
        driver = partial(
            mixed_driver, vision=vision, policy=policy, share=share, takeover=told.takeover,
            overspeed=told.overspeed,
        )  # fmt: skip
        shards = drive_round(
            told, driver, policy.contract.command, number, options.seed, folder, options.processes
        )
        seen += seen_of(shards)
        policy = train_policy(settings, Windows(seen), judged, folder / "policy")
        epoch += settings.epochs
        about = {"stage": "dagger", "round": number, "epoch": epoch, "before": start["told"]}
        path = Path(output) / FOLDER / f"epoch_{epoch:04d}.pt"
        save_driving(path, start["vision"], policy_part(policy), about)
    return path


def drive_round(
    options: DaggerOptions,
    make: Callable[..., MixedDriver],
    rule: CommandRule,
    number: int,
    seed: int,
    folder: Path,
    processes: int = 1,
) -> list[Shard]:
    """Let the pair drive the episodes of a round that are not there yet; return all its shards.

    Args:
        options: Where and how long.
        make: Makes who drives an episode, of the environment and ``seed``; picklable.
        rule: The contract's rule, which reads commands from plans.
        number: Of the round, from 1.
        seed: Of the run.
        folder: Where the shards go.
        processes: Processes, each of which drives one episode at a time.
    """
    clear_pending(writable_folder(folder))
    first = (number - 1) * options.episodes
    episodes = [
        Episode(
            as_scenario(scenario), episode_seed("imitation", seed, first + i), options.map,
            options.steps, disturbance=Disturbance(share=options.disturbed, hasty=0.0),
        )
        for scenario in options.scenario for i in range(options.episodes)
    ]  # fmt: skip
    work = partial(_drive, folder=folder, make=make, rule=rule)
    missing = [episode for episode in episodes if not (folder / episode.name).exists()]
    driven = in_order(work, missing, processes, one_thread)
    for _ in tqdm(driven, total=len(missing), unit="episode", desc=f"round {number}"):
        pass  # each leaves its shard
    return [open_shard(folder / episode.name) for episode in episodes]


def _drive(
    episode: Episode, folder: Path, make: Callable[..., MixedDriver], rule: CommandRule
) -> None:
    """Drive and label one episode."""
    collect(episode, folder, partial(make, seed=episode.seed), route_driver, rule)


def mixed_driver(
    env: CarlaDriverVectorEnv,
    vision: VisionNet,
    policy: DrivingPolicy,
    share: float,
    takeover: float,
    overspeed: float,
    seed: int,
) -> MixedDriver:
    """Return who drives an episode: the pair, or the teacher in the cases of ``MixedDriver``."""
    network = packed(vision, vision.model)
    pair = PairDriver(env, policy.contract, torch_policy(policy), network)
    return MixedDriver(env, pair, share, takeover, overspeed, [seed, 5])
