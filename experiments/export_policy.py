"""Write a trained policy's files for any generation of openpilot or sunnypilot, and check them.

checkpoint= is the policy_model.pth of train-policynet or quickstart, or an epoch_NNNN.pt of
train-driving. contract= is the release; it need not be the one that the policy was trained for. With vision=, a driving_vision.onnx, a release with two
networks gets the matched pair, and a release of 2026 with one network gets vision and policy in one
graph. onnx=, tinygrad= and metadata= are paths of the policy's files; '' puts them into output=, and
tinygrad=none leaves the pickle out. What is written is then checked as verify-export does.

Examples:
  steerlab export-policy checkpoint=runs/mine/policy_model.pth contract=openpilot-0.10.1
  steerlab export-policy checkpoint=policy_model.pth onnx=out/policy.onnx metadata=out/policy.pkl tinygrad=none
  steerlab export-policy checkpoint=policy_model.pth contract=openpilot-0.11.0 vision=driving_vision.onnx
  steerlab export-policy checkpoint=policy_model.pth contract=openpilot-supercombo-2026-07 vision=driving_vision.onnx
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from steerlab.agents.checkpoint import load_checkpoint
from steerlab.agents.driving import KIND as DRIVING, checkpoint_path
from steerlab.agents.drivingpolicy.checkpoint import load_driving_policy
from steerlab.agents.drivingpolicy.network import DrivingPolicy
from steerlab.agents.policynet.model import PolicyNet
from steerlab.agents.policynet.train import load_policy
from steerlab.errors import InputError
from steerlab.exporters.openpilot import paths
from steerlab.exporters.policy import ExportedPolicy, export_policy
from steerlab.exporters.safety import policy_warning
from steerlab.exporters.verify import Options
from steerlab.exporters.written import tell_written
from steerlab.openpilot.contracts import contract
from steerlab.openpilot.tinygrad import check_tinygrad_path
from steerlab.options import option
from steerlab.study import study


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    checkpoint: str = option(
        "",
        "policy_model.pth of train-policynet or quickstart, or epoch_NNNN.pt of train-driving, or "
        "steerlab: that of the package",
    )
    contract: str = option("", "the release; '' = the one that the policy was trained for")
    vision: str = option("", "driving_vision.onnx that makes the features; '' = none")
    onnx: str = option("", "path of the ONNX file; '' = output=/<network>.onnx")
    tinygrad: str = option(
        "", "path of the tinygrad pickle; '' = beside the ONNX file; none = no pickle"
    )
    metadata: str = option("", "path of the metadata; '' = beside the ONNX file")
    tinygrad_path: str = option("", "folder of the target's tinygrad; '' takes the installed one")
    half: bool = option(True, "write the float16 variant too")
    check: bool = option(True, "check the files as verify-export does")


def run(config: Config, output: Path) -> ExportedPolicy:
    """Read the checkpoint, write the files, check them; exit non-zero if a check failed."""
    if not config.checkpoint:
        raise InputError("checkpoint= is missing; give a policy_model.pth or an epoch_NNNN.pt")
    torch.set_num_threads(1)
    policy = read_policy(config.checkpoint)
    target = contract(config.contract) if config.contract else policy.contract
    if config.tinygrad_path:
        check_tinygrad_path(config.tinygrad_path)
    pickled = config.tinygrad != "none"
    places = paths(
        output, target.policy_name, config.onnx, config.metadata, config.tinygrad if pickled else ""
    )
    done = export_policy(
        policy,
        places.onnx.parent,
        checkpoint_path(config.checkpoint).resolve().parent.name,
        target=target,
        vision=config.vision,
        places=places,
        half=config.half,
        tinygrad=pickled,
        tinygrad_path=config.tinygrad_path or None,
    )
    networks = {target.policy_name: done.policy}
    if done.vision:
        networks["driving_vision"] = done.vision
    checks = Options(
        tinygrad=pickled,
        trust_pickle=True,  # made a moment ago
        tinygrad_path=config.tinygrad_path or None,
        runs=20,
    )
    warning = policy_warning(policy.features)
    tell_written(networks, done.notes, warning, target, checks if config.check else None)
    return done


def read_policy(path: str) -> PolicyNet | DrivingPolicy:
    """Return the policy of a checkpoint of either kind.

    Raises:
        InputError: The file is absent, or no checkpoint with a policy.
    """
    if load_checkpoint(checkpoint_path(path))["kind"] == DRIVING:
        return load_driving_policy(path)
    return load_policy(path)


main = study(Config, run)

if __name__ == "__main__":
    main()
