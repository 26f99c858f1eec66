"""Action chunks drawn from trained models: options, ensembles from their folders, randomness."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from steerlab.agents.inverted_pendulum.ensemble import load_members
from steerlab.agents.pi0.model import Pi0, Pi0Sampler, antithetic
from steerlab.agents.pi0_fast.model import ChunkDecoder, Pi0Fast, stratified
from steerlab.options import option
from steerlab.types import Array


@dataclass(frozen=True)
class Sampling:
    """Options of studies that draw chunks from trained models."""

    pi0: str | None = option(None, "folder of a pi0 ensemble (output= of train-pi0)")
    pi0_fast: str | None = option(None, "folder of a pi0-FAST ensemble")
    steps: int = option(3, "Euler steps of pi0")
    samples: int = option(16, "chunks of pi0 that make a consensus")
    sequences: int = option(16, "sequences of pi0-FAST that make a consensus; 1 = likeliest token")
    longest: int = option(14, "tokens after which pi0-FAST ends a sequence; the rest is zeros")
    seed: int = option(0, "seed of whatever is drawn")


def members_of(sampling: Sampling, device: torch.device) -> dict[str, dict[str, Pi0 | Pi0Fast]]:
    """Return the ensembles of the folders that are given, by kind and name of the model."""
    folders = (
        ("pi0", sampling.pi0, "tinypi0_"),
        ("pi0-FAST", sampling.pi0_fast, "tinypi0fast_"),
    )
    return {
        kind: load_members(folder, prefix, device) for kind, folder, prefix in folders if folder
    }


def sampler_of(model: Pi0 | Pi0Fast, sampling: Sampling) -> Pi0Sampler | ChunkDecoder:
    """Return what draws the chunks of a trained model."""
    if isinstance(model, Pi0):
        return Pi0Sampler(model, sampling.steps, sampling.samples).eval()
    return ChunkDecoder(model, sampling.sequences, sampling.longest).eval()


def chunk_policy(
    model: nn.Module, sampling: Sampling, device: torch.device
) -> Callable[[Array], Array]:
    """Return the model as a map from states (N, 4) to chunks (N, H), with noise of its own."""
    rng = np.random.default_rng(sampling.seed)
    policy = sampler_of(model, sampling) if isinstance(model, Pi0 | Pi0Fast) else model
    policy = policy.to(device).eval()

    @torch.no_grad()
    def chunks(states: Array) -> Array:
        inputs = [torch.as_tensor(states, dtype=torch.float32, device=device)]
        if isinstance(policy, Pi0Sampler | ChunkDecoder):
            inputs.append(randomness(policy, len(states), rng).to(device))
        return np.asarray(policy(*inputs).double().cpu().numpy())

    return chunks


def randomness(
    policy: Pi0Sampler | ChunkDecoder, count: int, rng: np.random.Generator
) -> torch.Tensor:
    """Return what ``policy`` takes beside ``count`` states."""
    if isinstance(policy, Pi0Sampler):
        return antithetic(count, policy.samples, policy.model.config.horizon, rng)
    return stratified(count, policy.samples, policy.longest, rng)
