"""The policy's part of a driving pair's checkpoint."""

from pathlib import Path
from typing import Any

from steerlab.agents.checkpoint import fitting
from steerlab.agents.driving import KIND, Part, load_driving
from steerlab.agents.drivingpolicy.network import DrivingPolicy, driving_policy_from
from steerlab.errors import InputError


def policy_part(network: DrivingPolicy) -> Part:
    """Return the part of a checkpoint that a policy makes."""
    state = {name: values.detach().cpu().clone() for name, values in network.state_dict().items()}
    return network.describe() | {"state": state}


def policy_of(part: Part | None, path: str | Path) -> DrivingPolicy:
    """Return the policy of a checkpoint's part, in evaluation mode.

    Raises:
        InputError: There is none, or it is damaged.
    """
    if part is None:
        raise InputError(
            f"{str(path)!r} has no policy yet: go on with steerlab train-driving stage=policy "
            f"checkpoint={path}"
        )
    with fitting(path, KIND):
        described: dict[str, Any] = {name: part[name] for name in part if name != "state"}
        return driving_policy_from(described, part["state"])


def load_driving_policy(path: str | Path) -> DrivingPolicy:
    """Return the policy of a checkpoint, in evaluation mode.

    Raises:
        InputError: It is no checkpoint of a driving pair, or has no policy.
    """
    return policy_of(load_driving(path)["policy"], path)
