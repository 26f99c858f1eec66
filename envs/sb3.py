"""Native gymnasium vector environments for stable-baselines3."""

import inspect
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from steerlab.envs.batch import BatchEnv
from steerlab.errors import InputError, unknown_name


class SB3VecEnv(VecEnv):
    """A gymnasium ``VectorEnv`` in same-step autoreset mode as a stable-baselines3 ``VecEnv``.

    stable-baselines3 refuses vector environments; this adapter gives it what ``DummyVecEnv``
    would over single environments: rewards as float32, ``terminal_observation`` and
    ``TimeLimit.truncated`` in the infos, and the first observation of the next episode.

    Raises:
        InputError: The environment resets in another mode.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise InputError(
                f"stable-baselines3 needs autoreset_mode=AutoresetMode.SAME_STEP, not {mode}: "
                "make the environment with that argument, or use make_sb3_vec"
            )
        self.env = env
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Any:
        """Reset all rows with the seeds and options set before, which are used once."""
        seeds: Any = self._seeds if any(s is not None for s in self._seeds) else None
        options = self._shared_options()
        observations, infos = self.env.reset(seed=seeds, options=options)
        self.reset_infos = self._split(infos, range(self.num_envs))
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions (N, ...) for :meth:`step_wait`."""
        self.actions = actions

    def step_wait(self) -> tuple[Any, NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
        """Advance all rows by one step; return observations (N, ...), rewards (N,), ends (N,), infos."""
        observations, rewards, terminated, truncated, infos = self.env.step(self.actions)
        dones = terminated | truncated
        final_obs, final_info = infos.pop("final_obs", None), infos.pop("final_info", {})
        rows = self._split(infos, range(self.num_envs))
        for i in np.flatnonzero(dones).tolist():
            self.reset_infos[i] = rows[i]
            rows[i] = self._split(final_info, [i])[0]
            rows[i]["terminal_observation"] = final_obs[i]
        for i, row in enumerate(rows):
            row["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
        return observations, rewards.astype(np.float32), dones, rows

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_images(self) -> Sequence[NDArray[Any] | None]:
        """Return one picture (H, W, 3) a row, or None for each without a render mode."""
        frames: Any = self.env.render()
        return [None] * self.num_envs if frames is None else list(frames)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of the task or of a wrapper, once for each row asked for."""
        value = getattr(self._layer(attr_name), attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the task or of a wrapper for all rows.

        Raises:
            InputError: There is no such attribute, it cannot change once the task is made, or
                ``indices`` names some rows only.
        """
        if indices is not None:
            raise InputError(f"rows share {attr_name!r}: set it for all of them (indices=None)")
        layer = self._layer(attr_name)
        if isinstance(layer, BatchEnv):
            layer.set_attr(attr_name, value)
        elif hasattr(layer, attr_name):
            setattr(layer, attr_name, value)
        else:
            raise unknown_name("attribute", attr_name, vars(layer))

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the task or of a wrapper once; every row asked for gets its result."""
        method = getattr(self._layer(method_name), method_name)
        result = method(*method_args, **method_kwargs)
        return [result for _ in self._get_indices(indices)]

    def _layer(self, name: str) -> Any:
        """Return the outermost wrapper that has ``name`` as its own, or else the task."""
        layer: Any = self.env
        while isinstance(layer, VectorWrapper):
            own = (vars(kind) for kind in type(layer).__mro__ if kind not in VectorWrapper.__mro__)
            if name in vars(layer) or any(name in members for members in own):
                break
            layer = layer.env
        return layer

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Tell that no row has a wrapper of its own."""
        return [False for _ in self._get_indices(indices)]

    def _shared_options(self) -> dict[str, Any] | None:
        first = self._options[0] if self._options else {}
        if any(o != first for o in self._options):
            raise InputError("a native vector environment takes the same options for every row")
        return dict(first) or None

    @staticmethod
    def _split(infos: dict[str, Any], rows: Sequence[int] | range) -> list[dict[str, Any]]:
        """Turn an info of arrays with masks into one dictionary for each of ``rows``."""
        split: list[dict[str, Any]] = [{} for _ in rows]
        for key in [k for k in infos if f"_{k}" in infos]:
            values, mask = infos[key], infos[f"_{key}"]
            for place, row in enumerate(rows):
                if mask[row]:
                    split[place][key] = values[row]
        return split


class SB3VecMonitor(VecMonitor):
    """A ``VecMonitor`` that can be copied and pickled; stable-baselines3's own cannot.

    A file of results is left out: two copies would write to the same one.
    """

    def __getstate__(self) -> dict[str, Any]:
        state = {**vars(self), "results_writer": None}
        del state["class_attributes"]  # holds the class's own dictionary
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.class_attributes = dict(inspect.getmembers(type(self)))


def make_sb3_vec(name: str, num_envs: int, seed: int | None = None, **kwargs: Any) -> SB3VecMonitor:
    """Return a native vector task for stable-baselines3, with episode statistics.

    Args:
        name: Id of a registered task that has a native vector form.
        num_envs: Number of rows.
        seed: Seed of the first reset; row i gets ``seed + i``.
        kwargs: Arguments of the task.
    """
    env = gym.make_vec(
        name,
        num_envs=num_envs,
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.SAME_STEP,
        **kwargs,
    )
    adapter = SB3VecEnv(env)
    if seed is not None:
        adapter.seed(seed)
    return SB3VecMonitor(adapter)
