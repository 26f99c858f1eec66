"""Closed loops of policy files over held-out episodes, in blocks and in several processes."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tqdm.auto import tqdm

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.agents.policynet.driver import OpenpilotDriver, torch_driver, torch_network
from steerlab.agents.policynet.evaluate import HeldOut, MakeDriver, drive, figures, held_out
from steerlab.agents.policynet.model import VISION, PolicyNet
from steerlab.agents.policynet.train import load_policy
from steerlab.envs.kinematic_driver.record import Driver, Record, join
from steerlab.errors import InputError
from steerlab.openpilot.contracts import contract
from steerlab.openpilot.engines import Network, load_network
from steerlab.openpilot.network_file import NetworkFile
from steerlab.processes import worker_pool
from steerlab.seeds import initial_weights

BLOCK = 20  # episodes that a process drives side by side
_MANY = 500  # the same of drivers that take all rows in one call


@dataclass(frozen=True)
class PolicyFile:
    """A policy file with what has to run around it; a driver can be made of it in any process.

    An ONNX file takes its rows one after the other. A ``policy_model.pth`` of ours runs in torch, all
    rows in one call, several times faster; the runner around it is the same.
    """

    path: str
    contract: str
    vision: str | NetworkFile = ""

    @property
    def block(self) -> int:
        """Episodes that are best driven side by side."""
        return 100 if self.path.endswith(".pth") else BLOCK

    @property
    def file(self) -> NetworkFile:
        """The vision network; its path is '' where there is none."""
        return NetworkFile(self.vision) if isinstance(self.vision, str) else self.vision

    def network(self) -> Network:
        """Return the network.

        Raises:
            InputError: The file is absent, no policy, for another contract, or in need of pictures.
        """
        if not self.path.endswith(".pth"):
            return load_network(self.path)
        policy = load_policy(self.path)
        if policy.contract.id != self.contract:
            raise InputError(
                f"{self.path!r} was trained for {policy.contract.id}; give contract= of that name"
            )
        if policy.features == VISION and not self.file.path:
            raise InputError(
                f"{self.path!r} was trained on pictures and not on the task's own features; give vision="
            )
        return torch_network(policy)

    def __call__(self, env: Any) -> OpenpilotDriver:
        """Return the driver of all rows of ``env``."""
        vision = self.file.open() if self.file.path else None
        return OpenpilotDriver(env, contract(self.contract), self.network(), vision)


def drive_held_out(
    make: MakeDriver,
    episodes: int,
    name: str,
    processes: int = 1,
    block: int = BLOCK,
    others: HeldOut | None = None,
) -> Record:
    """Drive the first held-out episodes, in blocks.

    Args:
        make: Makes the driver of a block; it has to be picklable for more than one process.
        episodes: How many.
        name: What the progress bar says.
        processes: Processes; each drives a block at a time.
        block: Episodes of a block.
        others: Other episodes in their place.
    """
    with ExitStack() as stack:
        blocks = _blocks(episodes, processes, block, others)
        pool = stack.enter_context(worker_pool(processes)) if processes > 1 < len(blocks) else None
        return join_held_out(start_held_out(make, episodes, processes, block, others, pool), name)


def start_held_out(
    make: MakeDriver,
    episodes: int,
    processes: int,
    block: int = BLOCK,
    others: HeldOut | None = None,
    pool: Executor | None = None,
) -> list[tuple[int, Callable[[], Record]]]:
    """Begin to drive the first held-out episodes in a pool; :func:`join_held_out` waits for them.

    Args:
        make: As for :func:`drive_held_out`, as are the others.
        episodes: How many.
        processes: Processes of the pool.
        block: Episodes of a block.
        others: Other episodes in their place.
        pool: Where they are driven; None is this process, once they are waited for.

    Returns:
        Number of episodes, and what returns their record, by block.
    """
    them = others or held_out()
    blocks = _blocks(episodes, processes, block, others)
    if pool is None:
        return [(len(part), partial(_drive_block, make, part, them)) for part in blocks]
    return [(len(part), pool.submit(_drive_block, make, part, them).result) for part in blocks]


def join_held_out(started: Sequence[tuple[int, Callable[[], Record]]], name: str) -> Record:
    """Return the record of episodes that :func:`start_held_out` began to drive.

    Args:
        started: What it returned.
        name: What the progress bar says.
    """
    records = []
    with tqdm(total=sum(count for count, _ in started), unit="episode", desc=name) as bar:
        for count, result in started:
            records.append(result())
            bar.update(count)
    return join(records)


def _blocks(episodes: int, processes: int, block: int, others: HeldOut | None) -> list[range]:
    """Return the seeds of each block: as many blocks for one process as for another, none larger than is best."""
    seeds = (others or held_out()).seeds(episodes)
    rounds = math.ceil(episodes / (block * processes))
    size = math.ceil(episodes / (rounds * processes))
    return [range(a, min(a + size, seeds.stop)) for a in range(seeds.start, seeds.stop, size)]


def _drive_block(make: MakeDriver, seeds: range, them: HeldOut) -> Record:
    torch.set_num_threads(1)
    return drive(make, seeds, them.ranges, them.max_episode_steps)


def drive_preview(episodes: int, others: HeldOut | None = None) -> Record:
    """Drive the held-out episodes with the preview controller, which sees the true state."""
    return drive_held_out(PreviewDriver, episodes, "preview controller", block=_MANY, others=others)


def drive_untrained(contract_: str, episodes: int, others: HeldOut | None = None) -> Record:
    """Drive the held-out episodes with a network with random weights."""
    return drive_held_out(
        Untrained(contract_), episodes, "untrained network", block=_MANY, others=others
    )


@dataclass(frozen=True)
class Untrained:
    """A network with random weights; a driver can be made of it in any process."""

    contract: str
    vision: NetworkFile = NetworkFile("")

    def __call__(self, env: Any) -> Driver:
        """Return the driver of all rows of ``env``."""
        with initial_weights(0):
            network = PolicyNet(self.contract)
        vision = self.vision.open() if self.vision.path else None
        return torch_driver(network.eval(), vision)(env)


def closed_loop(contract_: str, episodes: int) -> Callable[[Network], dict[str, float]]:
    """Return what ``verify`` calls to drive a network over held-out episodes."""

    def run(network: Network) -> dict[str, float]:
        chosen = contract(contract_)
        record = drive_held_out(
            lambda env: OpenpilotDriver(env, chosen, network), episodes, "closed loop"
        )
        found = figures(record)
        names = ("cte_p95", "cte_p95_steady", "heading_p95", "jerk_rms", "progress", "violations")
        return {name: float(getattr(found, name)) for name in names}

    return run


def check_episodes(episodes: int, processes: int) -> None:
    """Refuse impossible numbers before anything is computed.

    Raises:
        InputError: A number is out of range.
    """
    held_out().seeds(episodes)
    if processes < 1:
        raise InputError(f"processes={processes} must be at least 1")
