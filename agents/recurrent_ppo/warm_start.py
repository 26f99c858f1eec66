"""A warm start for reinforcement learning: a recurrent policy imitates the preview driver.

The policy drives, the preview driver says at every step what it would have done there, and all that
was said so far is learnt (DAgger: Ross, Gordon and Bagnell 2011). So the policy learns to come back
from where its own mistakes lead, from its noisy observation alone.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import RecurrentPPO
from torch import Tensor
from tqdm.auto import tqdm

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.agents.recurrent_ppo.driver import RETURN_SCALE, PolicyDriver
from steerlab.agents.recurrent_ppo.policy import process_sequence
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.wrappers.cvar import CVaRVectorReward

BATCH = 64  # sequences a gradient step
LEARNING_RATE = 2e-3  # at the start; falls to nothing by a cosine


def imitate(
    model: RecurrentPPO, env: CVaRVectorReward, rounds: int, passes: int, seed: int
) -> None:
    """Teach actor and critic of ``model`` what the preview driver does.

    Args:
        model: Learner with ``VecNormalize``; its statistics are set too.
        env: Environment in next-step mode with the task of the learner; each round drives one
            episode in each of its rows.
        rounds: Rounds of driving; in the first one the preview driver drives.
        passes: Passes over all that was gathered, after each round.
        seed: Seed of the first round's episodes.
    """
    normalizer: Any = model.get_vec_normalize_env()
    gathered: list[tuple[Tensor, ...]] = []
    optimizer = torch.optim.Adam(model.policy.parameters(), LEARNING_RATE)
    steps = sum(passes * -(-(k + 1) * env.num_envs // BATCH) for k in range(rounds))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng(seed)
    with tqdm(total=steps, unit="step", desc="imitation") as bar:
        for k in range(rounds):
            seen, told, rewards, alive = _drive(model if k else None, env, seed + k * env.num_envs)
            if not k:
                normalizer.obs_rms.update(seen[alive])
                # From here on the scales of the inputs stay: what is imitated depends on them.
                normalizer.obs_rms.count = 1e12
                normalizer.ret_rms.update(np.cumsum(rewards, 0)[alive])
            to_go = rewards[::-1].cumsum(0)[::-1] / np.sqrt(normalizer.ret_rms.var)
            parts = (normalizer.normalize_obs(seen), told, to_go, alive)
            gathered.append(tuple(torch.as_tensor(part.swapaxes(0, 1).copy()) for part in parts))
            whole = [torch.cat(part) for part in zip(*gathered, strict=True)]
            for _ in range(passes):
                for rows in np.array_split(
                    rng.permutation(len(whole[0])), -(-len(whole[0]) // BATCH)
                ):
                    loss = _loss(model.policy, *(part[rows] for part in whole))
                    optimizer.zero_grad()
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(model.policy.parameters(), 1.0)
                    optimizer.step()
                    schedule.step()
                    bar.update()
            bar.set_postfix(loss=loss.item(), alive=float(alive.mean()))


def _loss(policy: Any, seen: Tensor, told: Tensor, to_go: Tensor, alive: Tensor) -> Tensor:
    """Return the mean squared error of actor and critic over sequences (B, T, ...)."""
    features = policy.extract_features(seen.flatten(0, 1).float())
    states = features.new_zeros(
        policy.lstm_actor.num_layers, len(seen), policy.lstm_actor.hidden_size
    )
    starts = features.new_zeros(len(features))
    latent, _ = process_sequence(features, (states, states), starts, policy.lstm_actor)
    action = policy.action_net(policy.mlp_extractor.forward_actor(latent)).reshape(told.shape)
    value = policy.value_net(policy.mlp_extractor.forward_critic(policy.critic(features)))
    error = ((action - told) ** 2).sum(-1) + 0.05 * (value.reshape(to_go.shape) - to_go) ** 2
    return (error * alive).sum() / alive.sum()


@torch.no_grad()
def _drive(
    model: RecurrentPPO | None, env: CVaRVectorReward, seed: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """Drive one episode a row; return observations (T, N, 217), the teacher's actions (T, N, 2), rewards, alive."""
    task = env.unwrapped
    assert isinstance(task, KinematicDriverVectorEnv)
    teacher = PreviewDriver(task)
    student = PolicyDriver(model, env.num_envs) if model else None
    observation, info = env.reset(seed=seed)
    # What is left of the budget must not matter to what is imitated.
    env.risk.left[:] = np.random.default_rng(seed).uniform(0, 2 * RETURN_SCALE, env.num_envs)
    teacher.reset(observation, info)
    alive = np.ones(env.num_envs, bool)
    record: list[tuple[NDArray[Any], ...]] = []
    while alive.any():
        told = teacher.decide(info)
        actions = student(observation, info) if student else told
        teacher.keep(info, actions)
        following, _, terminated, truncated, info = env.step(actions)
        paid = np.where(alive, info["plain_reward"], 0.0)
        record.append((observation, told, paid, alive.copy()))
        alive &= ~(terminated | truncated)
        observation = following
    seen, said, rewards, living = (np.stack(part) for part in zip(*record, strict=True))
    return seen, said, rewards, living
