"""A warm start for reinforcement learning: a recurrent policy imitates the preview driver.

The policy drives, the preview driver says at every step what it would have done there, and all that
was said so far is learnt (DAgger: Ross, Gordon and Bagnell 2011). So the policy learns to come back
from where its own mistakes lead, from its noisy observation alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import RecurrentPPO
from torch import Tensor

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.agents.recurrent_ppo.driver import RETURN_SCALE, PolicyDriver
from steerlab.agents.recurrent_ppo.policy import process_sequence
from steerlab.agents.sb3 import LearnerState
from steerlab.agents.training_loop import Stateful, TrainingLoop
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.wrappers.cvar import CVaRVectorReward

KIND = "a warm start"  # of its checkpoints
FIXED = 1e12  # observations that the normaliser claims to have seen once it is fixed
BATCH = 64  # sequences a gradient step
LEARNING_RATE = 2e-3  # at the start; falls to nothing by a cosine


class Drives:
    """What the rounds so far have gathered, as a part of a training.

    Its state is the policy that drove each round. The drives follow from those and are a hundred times
    larger, so a training that goes on drives them again.
    """

    def __init__(self, model: RecurrentPPO, env: CVaRVectorReward, seed: int) -> None:
        self.model, self.env, self.seed = model, env, seed
        self.drivers: list[dict[str, Tensor]] = []  # none for the first round: the teacher drives
        self._rounds: list[tuple[Tensor, ...]] = []  # what was seen, told, paid, and whether alive

    def add(self) -> float:
        """Drive the next round; return the share of its steps that were on the road."""
        if self._rounds:
            self.drivers.append(self._weights())
        return self._drive()

    def repeat(self) -> None:
        """Drive the rounds of a loaded state again."""
        weights = self._weights()
        self._drive()
        for driver in self.drivers:
            self.model.policy.load_state_dict(driver)
            self._drive()
        self.model.policy.load_state_dict(weights)

    def whole(self) -> list[Tensor]:
        """Return what was seen (B, T, 217), told (B, T, 2), is still paid (B, T), and alive (B, T)."""
        return [torch.cat(part) for part in zip(*self._rounds, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Return who drove."""
        return {"drivers": self.drivers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take who drove; :meth:`repeat` lets them drive."""
        self.drivers = state["drivers"]

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.model.policy.state_dict().items()}

    def _drive(self) -> float:
        k, normalizer = len(self._rounds), self.model.get_vec_normalize_env()
        assert normalizer is not None
        seen, told, rewards, alive = _drive(
            self.model if k else None, self.env, self.seed + k * self.env.num_envs
        )
        statistics: Any = normalizer.obs_rms
        if statistics.count < FIXED:
            statistics.update(seen[alive])
            # From here on the scales of the inputs stay: what is imitated depends on them.
            statistics.count = FIXED
            normalizer.ret_rms.update(np.cumsum(rewards, 0)[alive])
        to_go = rewards[::-1].cumsum(0)[::-1] / np.sqrt(normalizer.ret_rms.var)
        parts: tuple[Any, ...] = (normalizer.normalize_obs(seen), told, to_go, alive)
        self._rounds.append(tuple(torch.as_tensor(part.swapaxes(0, 1).copy()) for part in parts))
        return float(alive.mean())


def imitate(
    model: RecurrentPPO,
    env: CVaRVectorReward,
    output: str | Path,
    rounds: int,
    passes: int,
    seed: int,
    config: Mapping[str, Any],
) -> None:
    """Teach actor and critic of ``model`` what the preview driver does, or go on with it.

    Args:
        model: Learner with ``VecNormalize``; its statistics are set too.
        env: Environment in next-step mode with the task of the learner; each round drives one
            episode in each of its rows.
        output: Folder of the checkpoint, written after every round, and of the log.
        rounds: Rounds of driving; in the first one the preview driver drives.
        passes: Passes over all that was gathered, after each round.
        seed: Seed of the first round's episodes.
        config: Plain values that a run must share with the one that it continues.

    Raises:
        InputError: The checkpoint in ``output`` is damaged, or another training's.
    """
    optimizer = torch.optim.Adam(model.policy.parameters(), LEARNING_RATE)
    steps = sum(passes * -(-(k + 1) * env.num_envs // BATCH) for k in range(rounds))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    drives, rng = Drives(model, env, seed), np.random.default_rng(seed)
    parts: dict[str, Stateful] = {
        "learner": LearnerState(model), "optimizer": optimizer, "schedule": schedule, "drives": drives,
    }  # fmt: skip
    loop = TrainingLoop(output, KIND, rounds, parts, config, unit="round", device=model.device)
    if 0 < loop.first < rounds:
        drives.repeat()
        rng.bit_generator.state = loop.values["rng"]
    with loop:
        for _ in loop:
            alive = drives.add()
            whole = drives.whole()
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
            scalars = {"imitation/loss": loss.item(), "imitation/alive": alive}
            loop.done(scalars, scalars, rng=rng.bit_generator.state)


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
