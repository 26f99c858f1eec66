"""The policy learns from the windows of shards, in the one supervised loop: it resumes bit for bit."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from steerlab.agents.drivingpolicy.data import Windows
from steerlab.agents.drivingpolicy.evaluate import network_planner, plan_errors
from steerlab.agents.drivingpolicy.losses import policy_loss
from steerlab.agents.drivingpolicy.network import DrivingPolicy, PolicyDesign
from steerlab.agents.supervised import FitConfig, fit
from steerlab.errors import InputError
from steerlab.openpilot.contracts import contract
from steerlab.options import option
from steerlab.seeds import initial_weights


@dataclass(frozen=True)
class PolicyTraining(FitConfig):
    """Options of :func:`train_policy`."""

    epochs: int = option(40, "passes over the windows at the most")
    batch_size: int = option(64, "windows a step")
    learning_rate: float = option(1e-3, "largest step size of AdamW")
    weight_decay: float = option(1e-3, "decoupled weight decay")
    ema_decay: float = option(0.98, "decay of the averaged weights that are kept; 0 = no average")
    contract: str = option("openpilot-0.10.0", "the release whose rule reads commands from plans")
    design: PolicyDesign = option(PolicyDesign(), "of the network")


def new_policy(config: PolicyTraining, train: Windows) -> DrivingPolicy:
    """Return a policy with random weights and the scales and anchors of the training's plans.

    Raises:
        InputError: The contract is unknown, or the design is impossible.
    """
    with initial_weights(config.seed):
        network = DrivingPolicy(contract(config.contract), config.design)
    whole = train.parts["known"].min(1).values > 0
    plans = train.parts["plan"][whole]
    if len(plans) < 100:  # where hardly any label goes to the end, those that end early count too
        plans = train.parts["plan"]
    knots = torch.cat(network.shape.read(plans), dim=-1)
    network.plan_head.adapt(knots.numpy(), config.seed)
    return network


def train_policy(
    config: PolicyTraining,
    train: Windows,
    valid: Windows,
    output: str | Path,
    start: Mapping[str, object] | None = None,
) -> DrivingPolicy:
    """Train a policy, or go on where ``output`` has one half trained; return the best on ``valid``.

    Args:
        config: Options.
        train: Windows to learn from.
        valid: Windows to choose by.
        output: Folder of the checkpoints, the log and the curves.
        start: Weights to begin with, those of a policy of the same design; its anchors stay.

    Raises:
        InputError: An option is out of range, or ``output`` belongs to other options.
    """
    network = new_policy(config, train)
    if start is not None:
        try:
            network.load_state_dict(dict(start))  # type: ignore[arg-type]
        except RuntimeError as error:
            raise InputError(
                "the policy to begin with has another design than the options: give the design= that "
                f"it was trained with ({' '.join(str(error).split())[:120]})"
            ) from error

    def metrics(model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, DrivingPolicy)
        return plan_errors(network_planner(model), valid)

    fit(network, policy_loss, train, valid, config, output, metrics, network.describe())
    return network.eval()
