"""What a file of ours must not be taken for: one wording for every place that says it."""

#: Said wherever files are called a drop-in.
INTERFACE_ONLY = (
    "Drop-in is a statement about the interface, not about the road: no check here says whether a "
    "model may steer a car."
)
#: Said wherever a policy is offered that learned from KinematicDriver's own features.
NOT_FOR_THE_ROAD = (
    "PolicyNet's features are those of KinematicDriver-v0: beside openpilot's own vision network it "
    "plans confidently and means nothing. It must not steer a car."
)
#: Said before anything is installed.
TRAINED_IN_SIMULATION = (
    "These models were trained in simulation. A model trained in simulation must not steer a car on a "
    "road."
)
#: Said wherever a vision network of ours is offered.
VISION_NOT_FOR_THE_ROAD = (
    "VisionNet has seen rendered pictures of a simulation only: what it says of a real road is not "
    "known. It must not steer a car."
)
#: The same of a policy that learned from rendered pictures.
PAIR_NOT_FOR_THE_ROAD = (
    "This policy has seen rendered roads only, through one vision network: beside another one it plans "
    "confidently and means nothing. It must not steer a car."
)
_MUST_NOT = "must not steer a car"


def policy_warning(features: str) -> str:
    """Return what is said wherever a policy is offered whose features come from there.

    Args:
        features: ``vision``, or the task that makes them.
    """
    return PAIR_NOT_FOR_THE_ROAD if features == "vision" else NOT_FOR_THE_ROAD


def checkpoint_text(run: str, features: str, name: str = "PolicyNet") -> str:
    """Return the ``model_checkpoint`` of a policy: where it comes from, and what it is not for.

    Args:
        run: Name of the training run.
        features: Where its features come from: ``vision``, or the task that makes them.
        name: What kind of policy it is.
    """
    if features == "vision":
        source = "trained in simulation on one vision network, means nothing beside another"
    else:
        source = f"features of {features}, means nothing beside a vision network"
    return f"{run} (steerlab {name}: {source}; {_MUST_NOT})"


def vision_text(run: str) -> str:
    """Return the ``model_checkpoint`` of a vision network that run ``run`` trained."""
    return f"{run} (steerlab VisionNet: trained on rendered pictures of a simulation; {_MUST_NOT})"


def is_unsafe(checkpoint: str) -> bool:
    """Tell whether a ``model_checkpoint`` says that the model is not for the road."""
    return _MUST_NOT in checkpoint
