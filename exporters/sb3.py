"""Policies of stable-baselines3 and sb3-contrib as ONNX files that need nothing of either.

The graph holds everything ``model.predict(deterministic=True)`` does: the preprocessing of
observations, the normaliser of a ``VecNormalize``, the network, the head's deterministic action,
and the scaling or clipping to the action space. Where a ``VecFrameStack`` lies over the ``VecNormalize``,
the graph takes the stack of raw frames; frames from before an episode, which that stack fills with zeros
after normalising, are then the mean of the statistics (``mean_observation``). A recurrent policy takes its state as inputs
``state_h`` (and ``state_c``), (B, layers, H), and returns the next as ``next_state_h``; at the start
of an episode give zeros. Its cell is written out in plain operations, since tinygrad has neither LSTM nor GRU.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

from steerlab.errors import InputError
from steerlab.exporters.onnx import export_onnx
from steerlab.exporters.unrolled_rnn import UnrolledRNN


class DeterministicActor(nn.Module):
    """What ``model.predict(deterministic=True)`` computes, from tensors to tensors.

    Args:
        model: An algorithm of stable-baselines3 or sb3-contrib.
        normalizer: The ``VecNormalize`` whose statistics the observations go through; None takes
            the model's own, if it has one.

    Raises:
        InputError: The action space or the recurrent cell cannot be exported.
    """

    low: Tensor
    high: Tensor

    def __init__(self, model: BaseAlgorithm, normalizer: VecNormalize | None = None) -> None:
        super().__init__()
        self.policy: Any = model.policy
        self.space = model.observation_space
        self.actions = model.action_space
        if not isinstance(self.actions, spaces.Box | spaces.Discrete | spaces.MultiDiscrete
                          | spaces.MultiBinary):  # fmt: skip
            raise InputError(f"cannot export actions in {self.actions}; use Box or Discrete")
        if not isinstance(self.policy, BasePolicy):
            raise InputError(f"{type(model).__name__} has no policy network to export")
        rnn = getattr(self.policy, "lstm_actor", None)
        self.cell = UnrolledRNN(rnn) if rnn is not None else None
        self.keys = list(self.space.spaces) if isinstance(self.space, spaces.Dict) else []
        normalizer = normalizer or model.get_vec_normalize_env()
        self._keep_statistics(normalizer)
        if isinstance(self.actions, spaces.Box):
            self.register_buffer("low", torch.as_tensor(self.actions.low))
            self.register_buffer("high", torch.as_tensor(self.actions.high))

    def _keep_statistics(self, normalizer: VecNormalize | None) -> None:
        self.normalized: list[str] = []
        if normalizer is None or not normalizer.norm_obs:
            return
        self.clip, epsilon = normalizer.clip_obs, normalizer.epsilon
        statistics: Any = normalizer.obs_rms
        if isinstance(statistics, dict) != bool(self.keys):
            raise InputError(
                f"VecNormalize normalises {normalizer.observation_space}, the policy sees "
                f"{self.space}; make VecNormalize the outermost wrapper that changes observations"
            )
        found: Mapping[str, Any] = statistics if self.keys else {"observation": statistics}
        for name, values in found.items():
            self.normalized.append(name)
            shape = (
                self.space[name].shape if isinstance(self.space, spaces.Dict) else self.space.shape
            )
            mean, var = (_over_stack(np.asarray(v), shape or ()) for v in (values.mean, values.var))
            self.register_buffer(f"mean_{name}", torch.as_tensor(mean).float())
            scale = 1.0 / np.sqrt(var + epsilon)
            self.register_buffer(f"scale_{name}", torch.as_tensor(scale).float())

    @property
    def input_names(self) -> list[str]:
        """Observations, then states."""
        return [*(self.keys or ["observation"]), *self.state_names]

    @property
    def state_names(self) -> list[str]:
        """Inputs that the caller carries from step to step."""
        if self.cell is None:
            return []
        return ["state_h", "state_c"] if self.cell.is_lstm else ["state_h"]

    @property
    def output_names(self) -> list[str]:
        """The action, then the next states."""
        return ["action", *(f"next_{name}" for name in self.state_names)]

    def example(self, rows: int = 1) -> list[Tensor]:
        """Return inputs of the right shapes and types."""
        boxes = self.space.spaces.values() if isinstance(self.space, spaces.Dict) else [self.space]
        found = []
        for index, box in enumerate(boxes):
            box.seed(index)
            found.append(torch.as_tensor(np.stack([box.sample() for _ in range(rows)])))
        if self.cell is not None:
            rnn = self.cell.rnn
            shape = (rows, rnn.num_layers, rnn.hidden_size)
            found += [torch.zeros(shape) for _ in self.state_names]
        return found

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the action (B, *shape) and the next states."""
        count = len(self.keys) or 1
        named = dict(zip(self.keys or ["observation"], inputs[:count], strict=True))
        for name in self.normalized:
            centred = named[name].float() - getattr(self, f"mean_{name}")
            scaled = centred * getattr(self, f"scale_{name}")
            named[name] = scaled.clamp(-self.clip, self.clip)
        observation: Any = named if self.keys else named["observation"]
        if self.cell is None:
            return self._bounded(self.policy._predict(observation, deterministic=True))
        features = self._features(observation)
        latent, *states = self.cell(features, *inputs[count:])
        latent = self.policy.mlp_extractor.forward_actor(latent)
        head = self.policy._get_action_dist_from_latent(latent)
        return self._bounded(head.get_actions(deterministic=True)), *states

    def _features(self, observation: Any) -> Tensor:
        policy = self.policy
        ready = preprocess_obs(
            observation, policy.observation_space, normalize_images=policy.normalize_images
        )
        return policy.pi_features_extractor(ready)

    def _bounded(self, action: Tensor) -> Tensor:
        if isinstance(self.actions, spaces.Discrete):
            return action.reshape(-1)
        action = action.reshape(-1, *(self.actions.shape or ()))
        if not isinstance(self.actions, spaces.Box):
            return action
        if self.policy.squash_output:
            return self.low + 0.5 * (action + 1.0) * (self.high - self.low)
        return torch.maximum(torch.minimum(action, self.high), self.low)


def _over_stack(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return statistics of single frames repeated over the stack of them that a policy sees.

    ``VecFrameStack`` over ``VecNormalize``, the order of rl-zoo, puts normalised frames one behind the
    other along one axis.

    Raises:
        InputError: The policy's observations are no such stack.
    """
    if values.shape == shape:
        return values
    if values.ndim == len(shape):
        times = [b // a if b % a == 0 else 0 for a, b in zip(values.shape, shape, strict=True)]
        if sorted(times)[:-1] == [1] * (len(times) - 1) and max(times) > 1:
            return np.tile(values, times)
    raise InputError(
        f"VecNormalize has statistics of shape {values.shape}, the policy sees {shape}, which is no "
        "stack of such frames; make VecNormalize the outermost wrapper that changes observations"
    )


def export_sb3(
    model: BaseAlgorithm,
    path: str | Path,
    *,
    normalizer: VecNormalize | None = None,
    dynamic_batch: bool = False,
    metadata: Mapping[str, str] | None = None,
    tolerance: float = 1e-5,
) -> DeterministicActor:
    """Write the deterministic policy of a stable-baselines3 model as one ONNX file.

    Args:
        model: PPO, A2C, SAC, TD3, DQN, RecurrentPPO, TQC, ... with any head that can say its
            deterministic action: Gaussian, squashed Gaussian, Beta, categorical.
        path: Where the file goes.
        normalizer: A ``VecNormalize`` loaded apart from the model.
        dynamic_batch: Leave the batch axis free; openpilot and tinygrad want it fixed at 1.
        metadata: Entries of the file's ``metadata_props``.
        tolerance: Largest difference accepted between torch and onnxruntime.

    Returns:
        The exported module, with the names of inputs and outputs.

    Raises:
        InputError: The policy cannot be exported, or the graph differs from it.
    """
    model.policy.set_training_mode(False)
    actor = DeterministicActor(model, normalizer).to(model.device).eval()
    example = actor.example(3 if dynamic_batch else 1)
    with _unvalidated_distributions():
        export_onnx(
            actor.cpu(),
            example,
            path,
            actor.input_names,
            actor.output_names,
            dynamic_batch=dynamic_batch,
            metadata=metadata,
            tolerance=tolerance,
        )
    actor.to(model.device)
    return actor


@contextmanager
def _unvalidated_distributions() -> Iterator[None]:
    """Let torch's distributions skip their checks, whose branches depend on the data."""
    before = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)
