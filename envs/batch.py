"""The two base classes of every task: N rows in lockstep, and one row on its own.

A task is written once, as a :class:`BatchEnv`. Its single form is a :class:`SingleEnv` that holds
a batch of one, so the two cannot drift apart.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from steerlab.errors import InputError

#: Rows of a batch: an index array, or ``slice(None)`` for all of them (views instead of copies).
Rows = slice | NDArray[np.intp]
Info = dict[str, NDArray[Any]]

ALL = slice(None)


class BatchEnv(VectorEnv[Any, Any, Any]):
    """A task over N rows, with gymnasium's three ways of automatic reset.

    A subclass sets ``single_observation_space`` and ``single_action_space`` before it calls
    ``super().__init__`` and implements :meth:`_reset`, :meth:`_step`, :meth:`_observe` and, where
    it has something to tell, :meth:`_info`. Each gets the rows it is to work on, and no result of
    a row may depend on another row.

    Seeds follow gymnasium's ``SyncVectorEnv``: ``reset(seed=s)`` gives row ``i`` the generator of
    ``s + i``, so a row repeats the single environment reset with that seed.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    #: True promises that stepping a row whose episode is over does no harm and draws nothing, and
    #: that ``_info`` has the same keys for every row. Then all rows are stepped at once, as views,
    #: also when some of them have to be reset: several times faster with many rows.
    lockstep: ClassVar[bool] = False

    def __init__(
        self,
        num_envs: int,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        if num_envs < 1:
            raise InputError(f"num_envs={num_envs} must be at least 1")
        modes = type(self).metadata["render_modes"]
        if render_mode is not None and render_mode not in modes:
            raise InputError(f"render_mode={render_mode!r} must be one of {modes}")
        self.num_envs = num_envs
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = render_mode
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        #: One generator a row, made at the first reset.
        self.row_rng: list[np.random.Generator] = []
        self._row_seeds: list[int] = [-1] * num_envs
        self._done = np.ones(num_envs, dtype=bool)
        self._started = False

    @abstractmethod
    def _reset(self, rows: Rows, options: dict[str, Any]) -> None:
        """Start a new episode in ``rows``, drawing from ``self.row_rng``."""

    @abstractmethod
    def _step(
        self, rows: Rows, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Advance ``rows`` by one step; return rewards, terminations and truncations."""

    @abstractmethod
    def _observe(self, rows: Rows) -> NDArray[Any]:
        """Return fresh observations of ``rows``, never a view of internal state."""

    def _info(self, rows: Rows) -> Info:
        """Return what ``info`` tells about ``rows``, each entry with the row axis first."""
        return {}

    def row_indices(self, rows: Rows) -> NDArray[np.intp]:
        """Return ``rows`` as an index array."""
        return np.arange(self.num_envs)[rows]

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start new episodes in all rows, or in those of ``options["reset_mask"]``.

        Args:
            seed: An integer s (row i gets s + i), a list with one entry a row, or None to go on
                with the generators as they are.
            options: ``reset_mask`` (bool, (N,)) and the options of the task.

        Returns:
            Observations (N, ...) and the info dictionary.
        """
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        rows: Rows = ALL if mask is None else self._mask_rows(mask)
        self._seed_rows(rows, seed)
        self._reset(rows, options)
        self._done[rows] = False
        self._started = True
        return self._observe(ALL), self._masked(self._info(rows), rows)

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[
        NDArray[Any], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """Advance every row; see ``gymnasium.vector.VectorEnv.step``."""
        if not self._started:
            raise gym.error.ResetNeeded("call reset() before step()")
        actions = np.asarray(actions)
        if actions.shape != self.action_space.shape:
            raise InputError(f"actions have shape {actions.shape}, need {self.action_space.shape}")
        if self.autoreset_mode is AutoresetMode.NEXT_STEP and self._done.any():
            return self._step_after_done(actions)
        if self.autoreset_mode is AutoresetMode.DISABLED and self._done.any():
            rows = np.flatnonzero(self._done)
            raise gym.error.ResetNeeded(
                f"the episodes of rows {rows.tolist()} are over: reset them"
            )
        rewards, terminated, truncated = self._step(ALL, actions)
        self._done = terminated | truncated
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._done.any():
            infos = self._reset_done()
        else:
            infos = self._masked(self._info(ALL), ALL)
        return self._observe(ALL), rewards, terminated, truncated, infos

    def _step_after_done(self, actions: NDArray[Any]) -> tuple[Any, ...]:
        """Next-step mode: rows that ended are reset with reward 0, the others advance."""
        ended, running = np.flatnonzero(self._done), np.flatnonzero(~self._done)
        if self.lockstep:
            rewards, terminated, truncated = self._step(ALL, actions)
            self._reset(ended, {})
            rewards[ended], terminated[ended], truncated[ended] = 0.0, False, False
            self._done = terminated | truncated
            infos = self._masked(self._info(ALL), ALL)
            return self._observe(ALL), rewards, terminated, truncated, infos
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), dtype=bool)
        self._reset(ended, {})
        if running.size:
            rewards[running], terminated[running], truncated[running] = self._step(
                running, actions[running]
            )
        self._done = terminated | truncated
        infos = self._masked(self._info(ended), ended)
        if running.size:
            _merge(infos, self._masked(self._info(running), running))
        return self._observe(ALL), rewards, terminated, truncated, infos

    def _reset_done(self) -> dict[str, Any]:
        """Same-step mode: keep the last observation and info of ended rows, then reset them."""
        ended, running = np.flatnonzero(self._done), np.flatnonzero(~self._done)
        final_obs = np.full(self.num_envs, None, dtype=object)
        for row, observation in zip(ended, self._observe(ended), strict=True):
            final_obs[row] = observation
        final_info = self._masked(self._info(ended), ended)
        infos: dict[str, Any] = {}
        if running.size and not self.lockstep:
            infos = self._masked(self._info(running), running)
        self._reset(ended, {})
        rows = ALL if self.lockstep else ended
        _merge(infos, self._masked(self._info(rows), rows))
        infos["final_obs"], infos["_final_obs"] = final_obs, self._done.copy()
        infos["final_info"], infos["_final_info"] = final_info, self._done.copy()
        return infos

    def _masked(self, info: Info, rows: Rows) -> dict[str, Any]:
        """Spread the info of ``rows`` over all rows, with gymnasium's ``_key`` masks."""
        mask = np.zeros(self.num_envs, dtype=bool)
        mask[rows] = True
        masked: dict[str, Any] = {}
        for key, values in info.items():
            if len(values) != self.num_envs:
                some, empty = values, None if values.dtype == object else 0
                values = np.full((self.num_envs, *some.shape[1:]), empty, some.dtype)
                values[rows] = some
            masked[key], masked[f"_{key}"] = values, mask
        return masked

    def _mask_rows(self, mask: Any) -> NDArray[np.intp]:
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise InputError(
                f"options['reset_mask'] must be a bool array of shape ({self.num_envs},) "
                f"with a True in it, got {mask.dtype} of shape {mask.shape}"
            )
        if not self._started:
            raise InputError("the first reset must reset all rows: leave out 'reset_mask'")
        return np.flatnonzero(mask)

    def _seed_rows(self, rows: Rows, seed: int | list[int | None] | None) -> None:
        if seed is None or isinstance(seed, int | np.integer):
            seeds = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise InputError(f"got {len(seeds)} seeds for {self.num_envs} rows")
        first = not self.row_rng
        if first:
            self.row_rng = [None] * self.num_envs  # type: ignore[list-item]
        for row in range(self.num_envs) if first else self.row_indices(rows):
            if seeds[row] is not None or first:
                self.row_rng[row], self._row_seeds[row] = seeding.np_random(seeds[row])

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each row."""
        return tuple(self._row_seeds)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of each row."""
        return tuple(self.row_rng)

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Return one picture (H, W, 3) a row, or None without a render mode or with a window."""
        if self.render_mode in (None, "human"):
            return None
        return tuple(self.render_row(row) for row in range(self.num_envs))

    def render_row(self, row: int) -> NDArray[np.uint8]:
        """Return the picture of one row."""
        raise NotImplementedError(f"{type(self).__name__} draws no pictures")


class SingleEnv(gym.Env[Any, Any]):
    """One row of a batched task as a plain ``gymnasium.Env``.

    A subclass names the batched class in :attr:`batch_type`; all keyword arguments go to it.
    """

    batch_type: ClassVar[type[BatchEnv]]

    def __init_subclass__(cls) -> None:
        cls.metadata = cls.batch_type.metadata

    def __init__(self, **kwargs: Any) -> None:
        self.batch = self.batch_type(num_envs=1, autoreset_mode=AutoresetMode.DISABLED, **kwargs)
        self.render_mode = self.batch.render_mode
        self.observation_space = self.batch.single_observation_space
        self.action_space = self.batch.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; ``options`` are those of the task."""
        super().reset(seed=seed)
        self.batch.row_rng = [self.np_random]
        observations, infos = self.batch.reset(options=options)
        return observations[0], _first(infos)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance by one step."""
        observations, rewards, terminated, truncated, infos = self.batch.step(
            np.asarray(action)[None]
        )
        return (
            observations[0],
            float(rewards[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            _first(infos),
        )

    def render(self) -> NDArray[np.uint8] | None:
        """Return a picture (H, W, 3), or None without a render mode or with a window."""
        return None if self.render_mode in (None, "human") else self.batch.render_row(0)

    def close(self) -> None:
        """Release what the batch holds."""
        self.batch.close()


def _first(infos: dict[str, Any]) -> dict[str, Any]:
    """Return the info of row 0 without the masks."""
    return {key: values[0] for key, values in infos.items() if f"_{key}" in infos}


def _merge(infos: dict[str, Any], more: dict[str, Any]) -> None:
    """Add the masked entries of ``more`` to ``infos``."""
    for key in [k for k in more if f"_{k}" in more]:
        mask = more[f"_{key}"]
        if key in infos:
            infos[key][mask] = more[key][mask]
            infos[f"_{key}"] = infos[f"_{key}"] | mask
        else:
            infos[key], infos[f"_{key}"] = more[key], mask
