"""The two base classes of every task: N rows in lockstep, and one row on its own.

A task is written once, as a :class:`BatchEnv`. Its single form is a :class:`SingleEnv` that holds
a batch of one, so the two cannot drift apart.
"""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping
from copy import copy
from functools import cache, wraps
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from steerlab.envs.arguments import integer, numbers, row_seeds, time_limit_of_make
from steerlab.errors import InputError, unknown_name

#: Rows of a batch: an index array, or ``slice(None)`` for all of them (views instead of copies).
Rows = slice | NDArray[np.intp]
Info = dict[str, NDArray[Any]]

ALL = slice(None)


def after_reset(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method of a task raise ``ResetNeeded`` before the first reset."""

    @wraps(method)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._started:
            raise gym.error.ResetNeeded(f"call reset() before {method.__name__}()")
        return method(self, *args, **kwargs)

    return checked


class _TaskType(type):
    """Tells a task when its constructors are done; from then on its arguments are guarded."""

    @property
    def __signature__(cls) -> inspect.Signature:
        """What ``help`` and the reference show: without it, the arguments of ``__call__`` below."""
        return _signature(cls)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        task = super().__call__(*args, **kwargs)
        task._complete = True
        return task


class _WithSpec:
    """Keeps gymnasium's spec, with the number of steps after which an episode is over at the latest."""

    _spec: EnvSpec | None = None

    @property
    @abstractmethod
    def longest_episode(self) -> int | None:
        """Steps after which an episode is over at the latest; None without a limit."""

    @property
    def spec(self) -> EnvSpec | None:
        """How gymnasium made the task."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None:
            spec = copy(spec)
            spec.max_episode_steps = self.longest_episode
        self._spec = spec


class BatchEnv(_WithSpec, VectorEnv[Any, Any, Any], metaclass=_TaskType):
    """A task over N rows, with gymnasium's three ways of automatic reset.

    A subclass sets ``single_observation_space`` and ``single_action_space`` before it calls
    ``super().__init__`` and implements :meth:`_reset`, :meth:`_step`, :meth:`_observe` and, where
    it has more to report or something to draw, :meth:`_info` and :meth:`render_row`. Each gets the rows it
    is to work on, and no result of a row may depend on another row.

    Seeds follow gymnasium's ``SyncVectorEnv``: ``reset(seed=s)`` gives row ``i`` the generator of
    ``s + i``, so a row repeats the single environment reset with that seed.

    An argument of the constructor stays as it is for the life of the task: setting it raises an
    error. Only a :class:`~steerlab.envs.arguments.Setting`, or a property with a setter, may change.

    Args:
        num_envs: Number of rows.
        autoreset_mode: See gymnasium.
        render_mode: One of ``metadata["render_modes"]``, or None. May change.
        max_episode_steps: Steps after which an episode is truncated, or None for no limit. As with
            gymnasium's TimeLimit, the last step may be terminated as well.

    Raises:
        InputError: An argument is out of range.
    """

    metadata: dict[str, Any] = {"render_modes": [], "render_fps": 20}  # noqa: RUF012
    #: True promises that stepping a row whose episode is over does no harm and draws nothing, and
    #: that ``_info`` has the same keys for every row. Then all rows are stepped at once, as views,
    #: also when some of them have to be reset: several times faster with many rows.
    lockstep: ClassVar[bool] = False
    #: The options of ``reset``, or None for a task that checks them in ``_reset``.
    reset_options: ClassVar[tuple[str, ...] | None] = None

    _complete = False
    _started = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        draws = cls.render_row is not BatchEnv.render_row
        if draws and "metadata" not in vars(cls) and not cls.metadata["render_modes"]:
            cls.metadata = {**cls.metadata, "render_modes": ["rgb_array"]}

    def __init__(
        self,
        num_envs: int,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        self.num_envs = num_envs = integer("num_envs", num_envs, 1)
        modes = [mode.value for mode in AutoresetMode]
        if autoreset_mode not in (*AutoresetMode, *modes):
            raise InputError(f"autoreset_mode={autoreset_mode!r} must be one of {modes}")
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = render_mode
        self.max_episode_steps = max_episode_steps
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        #: One generator a row, made at the first reset.
        self.row_rng: list[np.random.Generator] = []
        self._row_seeds: list[int] = [-1] * num_envs
        self._done = np.ones(num_envs, dtype=bool)
        #: Steps of each row's episode, the present one included.
        self._elapsed = np.zeros(num_envs, dtype=np.intp)

    def __setattr__(self, name: str, value: Any) -> None:
        if self._complete and name in self.settings() and not _may_change(type(self), name):
            raise InputError(
                f"{name} cannot change once the task is made: make the task again with "
                f"{name}={value!r:.80}"
            )
        super().__setattr__(name, value)

    @classmethod
    def settings(cls) -> frozenset[str]:
        """Return the names of the constructor's arguments."""
        return _arguments(cls)

    def set_attr(self, name: str, value: Any) -> None:
        """Set an attribute, for all rows: they share it.

        Raises:
            InputError: There is no such attribute, or it cannot change.
        """
        if name not in self.settings() and not hasattr(self, name):
            raise unknown_name("attribute", name, self.settings())
        setattr(self, name, value)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute, once for each row."""
        return (getattr(self, name),) * self.num_envs

    @property
    def longest_episode(self) -> int | None:
        """Steps after which an episode is over at the latest; None without a limit."""
        return self.max_episode_steps

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
        """Return the ``info`` of ``rows``, each entry with the row axis first."""
        return {}

    def row_indices(self, rows: Rows) -> NDArray[np.intp]:
        """Return ``rows`` as an index array (R,)."""
        return np.arange(self.num_envs)[rows]

    def reset(
        self,
        *,
        seed: Any = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start new episodes in all rows, or in those of ``options["reset_mask"]``.

        Args:
            seed: An integer s (row i gets s + i), a list or array with one entry a row, or None to
                go on with the generators as they are.
            options: ``reset_mask`` (bool, (N,)) and the options of the task.

        Raises:
            InputError: A seed is no whole number from 0 on, or an option is unknown.

        Returns:
            Observations (N, ...) and the info dictionary.
        """
        options = self._checked_options(options)
        mask = options.pop("reset_mask", None)
        rows: Rows = ALL if mask is None else self._mask_rows(mask)
        self._seed_rows(rows, seed)
        started, self._started = self._started, True  # it may draw itself while it is reset
        try:
            self._begin(rows, options)
        except BaseException:
            self._started = started
            raise
        self._done[rows] = False
        return self._observe(ALL), self._masked(self._info(rows), rows)

    @after_reset
    def step(
        self, actions: NDArray[Any]
    ) -> tuple[
        NDArray[Any], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """Advance every row; see ``gymnasium.vector.VectorEnv.step``.

        Raises:
            InputError: ``actions`` have another shape than ``action_space``, or are not finite.
            ResetNeeded: An episode is over and nobody has reset its row.
        """
        if self.autoreset_mode is AutoresetMode.DISABLED and self._done.any():
            over = (
                f"the episodes of rows {np.flatnonzero(self._done).tolist()} are over: reset them"
            )
            raise gym.error.ResetNeeded(
                over if self.num_envs > 1 else "the episode is over: call reset()"
            )
        actions = self._checked_actions(actions)
        if self.autoreset_mode is AutoresetMode.NEXT_STEP and self._done.any():
            return self._step_after_done(actions)
        rewards, terminated, truncated = self._advance(ALL, actions)
        self._done = terminated | truncated
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._done.any():
            infos = self._reset_done()
        else:
            infos = self._masked(self._info(ALL), ALL)
        return self._observe(ALL), rewards, terminated, truncated, infos

    def _begin(self, rows: Rows, options: dict[str, Any]) -> None:
        self._elapsed[rows] = 0
        self._reset(rows, options)

    def _advance(
        self, rows: Rows, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        self._elapsed[rows] += 1
        rewards, terminated, truncated = self._step(rows, actions)
        if self.max_episode_steps is not None:
            truncated = truncated | (self._elapsed[rows] >= self.max_episode_steps)
        return rewards, terminated, truncated

    def _step_after_done(self, actions: NDArray[Any]) -> tuple[Any, ...]:
        """Next-step mode: rows that ended are reset with reward 0, the others advance."""
        ended, running = np.flatnonzero(self._done), np.flatnonzero(~self._done)
        if self.lockstep:
            rewards, terminated, truncated = self._advance(ALL, actions)
            self._begin(ended, {})
            rewards[ended], terminated[ended], truncated[ended] = 0.0, False, False
            self._done = terminated | truncated
            infos = self._masked(self._info(ALL), ALL)
            return self._observe(ALL), rewards, terminated, truncated, infos
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), dtype=bool)
        self._begin(ended, {})
        if running.size:
            rewards[running], terminated[running], truncated[running] = self._advance(
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
        observations = self._observe(ended)
        for i, row in enumerate(ended):
            final_obs[row] = row_of(observations, i)
        final_info = self._masked(self._info(ended), ended)
        infos: dict[str, Any] = {}
        if running.size and not self.lockstep:
            infos = self._masked(self._info(running), running)
        self._begin(ended, {})
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

    def _checked_options(self, options: Any) -> dict[str, Any]:
        if not isinstance(options, Mapping | None):
            raise InputError(f"options={options!r:.80} must be a dictionary")
        options = dict(options or {})
        if self.reset_options is not None:
            known = (*self.reset_options, "reset_mask")
            for name in options:
                if name not in known:
                    raise unknown_name("reset option", str(name), known)
        return options

    def _checked_actions(self, actions: Any) -> NDArray[Any]:
        """Return actions that are finite; those of rows that are about to be reset count as 0."""
        actions = numbers("actions", actions, self.action_space.shape or ())
        finite = np.isfinite(actions)
        if finite.all():
            return actions
        wrong = ~finite.reshape(self.num_envs, -1).all(axis=1) & ~self._done
        if wrong.any():
            rows = f" of rows {np.flatnonzero(wrong).tolist()}" if self.num_envs > 1 else ""
            raise InputError(f"an action{rows} is not finite; check the policy for NaN")
        return np.where(finite, actions, 0)

    def _seed_rows(self, rows: Rows, seed: Any) -> None:
        seeds = row_seeds(seed, self.num_envs)
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

    @property
    def render_mode(self) -> str | None:
        """One of ``metadata["render_modes"]``, or None."""
        return self._render_mode

    @render_mode.setter
    def render_mode(self, mode: str | None) -> None:
        modes = type(self).metadata["render_modes"]
        if mode is not None and mode not in modes:
            raise InputError(f"render_mode={mode!r} must be None or one of {modes}")
        self._render_mode = mode

    @after_reset
    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Return one picture (H, W, 3) a row, or None without a render mode or with a window."""
        if self.render_mode in (None, "human"):
            return None
        return tuple(self.render_row(row) for row in range(self.num_envs))

    @after_reset
    def render_row(self, row: int) -> NDArray[np.uint8]:
        """Return the picture (H, W, 3) of one row."""
        raise NotImplementedError(f"{type(self).__name__} draws no pictures")


class SingleEnv(_WithSpec, gym.Env[Any, Any]):
    """One row of a batched task as a plain ``gymnasium.Env``.

    A subclass names the batched class in :attr:`batch_type`; all keyword arguments go to it. They
    can be read, and where the task allows it be set, here as well.
    """

    batch_type: ClassVar[type[BatchEnv]]
    __signature__: ClassVar[inspect.Signature]
    batch: BatchEnv

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.metadata = cls.batch_type.metadata
        whole = inspect.signature(cls.batch_type).parameters.values()
        cls.__signature__ = inspect.Signature(
            [
                argument.replace(kind=argument.KEYWORD_ONLY)
                for argument in whole
                if argument.name not in ("num_envs", "autoreset_mode")
            ]
        )

    def __init__(self, **kwargs: Any) -> None:
        if kwargs.get("max_episode_steps") is None:
            limit = time_limit_of_make(type(self))
            kwargs |= {} if limit is None else {"max_episode_steps": limit}
        self.batch = self.batch_type(num_envs=1, autoreset_mode=AutoresetMode.DISABLED, **kwargs)
        self.observation_space = self.batch.single_observation_space
        self.action_space = self.batch.single_action_space

    def __getattr__(self, name: str) -> Any:
        if name in self.batch_type.settings() and "batch" in vars(self):
            return getattr(self.batch, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.batch_type.settings():
            setattr(self.batch, name, value)
        else:
            super().__setattr__(name, value)

    def set_wrapper_attr(self, name: str, value: Any, *, force: bool = True) -> bool:
        """Set an attribute of the task; wrappers ask here for what they do not know themselves.

        Raises:
            InputError: There is no such attribute, or it cannot change.
        """
        settings = self.batch_type.settings()
        if name not in settings and not hasattr(self, name):
            raise unknown_name("attribute", name, settings)
        setattr(self, name, value)
        return True

    @property
    def render_mode(self) -> str | None:  # type: ignore[override]
        """One of ``metadata["render_modes"]``, or None."""
        mode: str | None = self.batch.render_mode
        return mode

    @property
    def longest_episode(self) -> int | None:
        """Steps after which an episode is over at the latest; None without a limit."""
        return self.batch.longest_episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; ``options`` are those of the task."""
        super().reset(seed=None if seed is None else integer("seed", seed, 0))
        self.batch.row_rng = [self.np_random]
        observations, infos = self.batch.reset(options=options)
        return row_of(observations, 0), _first(infos)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance by one step."""
        action = numbers("an action", action, self.action_space.shape or ())
        observations, rewards, terminated, truncated, infos = self.batch.step(action[None])
        return (
            row_of(observations, 0),
            float(rewards[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            _first(infos),
        )

    def render(self) -> NDArray[np.uint8] | None:
        """Return a picture (H, W, 3), or None without a render mode or with a window."""
        pictures = self.batch.render()
        return None if pictures is None else pictures[0]

    def close(self) -> None:
        """Release what the batch holds."""
        self.batch.close()


@cache
def _signature(task: type) -> inspect.Signature:
    """Return the arguments that a task's constructor takes, itself or for the one that it extends."""
    found: dict[str, inspect.Parameter] = {}
    for kind in task.__mro__:
        if "__init__" not in vars(kind):
            continue
        _, *arguments = inspect.signature(vars(kind)["__init__"]).parameters.values()
        passed_on = [a for a in arguments if a.kind in (a.VAR_KEYWORD, a.VAR_POSITIONAL)]
        own = [a for a in arguments if a not in passed_on and a.name not in found]
        # Those of the extended constructors come through ``**kwargs``.
        found |= {a.name: a.replace(kind=a.KEYWORD_ONLY) if found else a for a in own}
        if kind is BatchEnv or not passed_on:
            break
    return inspect.Signature(list(found.values()))


@cache
def _arguments(task: type[BatchEnv]) -> frozenset[str]:
    return frozenset(_signature(task).parameters)


@cache
def _may_change(task: type[BatchEnv], name: str) -> bool:
    """Tell whether an argument is kept by a descriptor with a setter."""
    kept = inspect.getattr_static(task, name, None)
    return hasattr(type(kept), "__set__") and getattr(kept, "fset", True) is not None


def row_of(observations: Any, row: int) -> Any:
    """Return the observation of one row; observations of several parts are a dictionary."""
    if isinstance(observations, dict):
        return {name: part[row] for name, part in observations.items()}
    return observations[row]


def _first(infos: dict[str, Any]) -> dict[str, Any]:
    """Return the info of row 0 without the masks, truth values as Python's (wrappers know no others)."""
    first = {key: values[0] for key, values in infos.items() if f"_{key}" in infos}
    return {key: bool(v) if isinstance(v, np.bool_) else v for key, v in first.items()}


def _merge(infos: dict[str, Any], more: dict[str, Any]) -> None:
    """Add the masked entries of ``more`` to ``infos``."""
    for key in [k for k in more if f"_{k}" in more]:
        mask = more[f"_{key}"]
        if key in infos:
            infos[key][mask] = more[key][mask]
            infos[f"_{key}"] = infos[f"_{key}"] | mask
        else:
            infos[key], infos[f"_{key}"] = more[key], mask
