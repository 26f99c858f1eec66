"""The names of comma's ``tinyphysics.py``, for controller files that import from it.

``host.py`` puts this module in the place of ``tinyphysics`` where the checkout has none. Names,
arguments and numbers are those of commaai/controls_challenge; the plots of its debug mode are in
``steerlab evaluate-tinyphysics plot=``.
"""

import csv
from collections import namedtuple
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np

ACC_G = 9.81  # m/s^2
FPS = 10
DEL_T = 0.1  # s
CONTROL_START_IDX = 100
COST_END_IDX = 500
CONTEXT_LENGTH = 20
VOCAB_SIZE = 1024
LATACCEL_RANGE = [-5, 5]  # m/s^2
STEER_RANGE = [-2, 2]
MAX_ACC_DELTA = 0.5  # m/s^2 a step
LAT_ACCEL_COST_MULTIPLIER = 50.0
FUTURE_PLAN_STEPS = FPS * 5
DATASET_PATH = Path("data")

State = namedtuple("State", ["roll_lataccel", "v_ego", "a_ego"])
FuturePlan = namedtuple("FuturePlan", ["lataccel", "roll_lataccel", "v_ego", "a_ego"])


class BaseController:
    """What a controller file derives its class from."""

    def update(
        self, target_lataccel: float, current_lataccel: float, state: Any, future_plan: Any
    ) -> float:
        """Return the steer."""
        raise NotImplementedError


class LataccelTokenizer:
    """Turns lateral accelerations into tokens and back."""

    def __init__(self) -> None:
        self.vocab_size = VOCAB_SIZE
        self.bins = np.linspace(LATACCEL_RANGE[0], LATACCEL_RANGE[1], VOCAB_SIZE)

    def clip(self, value: Any) -> Any:
        """Return values within the range of the tokens."""
        return np.clip(value, LATACCEL_RANGE[0], LATACCEL_RANGE[1])

    def encode(self, value: Any) -> Any:
        """Return the tokens of values, rounded up to the next bin."""
        return np.digitize(self.clip(value), self.bins, right=True)

    def decode(self, token: Any) -> Any:
        """Return the values of tokens."""
        return self.bins[token]


class TinyPhysicsModel:
    """The plant of an ONNX file, one prediction at a time."""

    def __init__(self, model_path: str, debug: bool = False) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.tokenizer = LataccelTokenizer()
        self.ort_session = ort.InferenceSession(
            Path(model_path).read_bytes(), options, ["CPUExecutionProvider"]
        )

    def softmax(self, x: Any, axis: int = -1) -> Any:
        """Return probabilities."""
        powers = np.exp(x - np.max(x, axis=axis, keepdims=True))
        return powers / np.sum(powers, axis=axis, keepdims=True)

    def predict(self, input_data: dict[str, Any], temperature: float = 1.0) -> Any:
        """Return a token, drawn with numpy's global generator."""
        logits = self.ort_session.run(None, input_data)[0]
        chances = self.softmax(logits / temperature)[0, -1]
        return np.random.choice(len(chances), p=chances)  # noqa: NPY002  as official

    def get_current_lataccel(self, sim_states: Any, actions: Any, past_preds: Any) -> Any:
        """Return a next lateral acceleration, given 20 steps of states, actions and past values."""
        states = np.column_stack([actions, [list(state) for state in sim_states]])
        feeds = {
            "states": states[None].astype(np.float32),
            "tokens": np.asarray(self.tokenizer.encode(past_preds))[None].astype(np.int64),
        }
        return self.tokenizer.decode(self.predict(feeds, temperature=0.8))


class TinyPhysicsSimulator:
    """Drives one route under one controller."""

    def __init__(
        self, model: TinyPhysicsModel, data_path: str, controller: Any, debug: bool = False
    ) -> None:
        self.sim_model, self.data_path, self.controller, self.debug = (
            model, data_path, controller, debug,
        )  # fmt: skip
        self.data = self.get_data(data_path)
        self.reset()

    def get_data(self, data_path: str) -> dict[str, Any]:
        """Return the columns of a route."""
        with open(data_path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))

        def column(name: str) -> Any:
            return np.array([float(row[name] or "nan") for row in rows])

        return {
            "roll_lataccel": np.sin(column("roll")) * ACC_G,
            "v_ego": column("vEgo"),
            "a_ego": column("aEgo"),
            "target_lataccel": column("targetLateralAcceleration"),
            "steer_command": -column("steerCommand"),  # logged positive to the left
        }

    def reset(self) -> None:
        """Go to the first step and seed numpy's global generator by the path."""
        self.step_idx = CONTEXT_LENGTH
        past = [self.get_state_target_futureplan(step) for step in range(CONTEXT_LENGTH)]
        self.state_history = [state for state, _, _ in past]
        self.target_lataccel_history = [target for _, target, _ in past]
        self.current_lataccel_history = list(self.target_lataccel_history)
        self.action_history = self.data["steer_command"][:CONTEXT_LENGTH].tolist()
        self.current_lataccel = self.current_lataccel_history[-1]
        np.random.seed(int(md5(self.data_path.encode()).hexdigest(), 16) % 10**4)  # noqa: NPY002

    def get_state_target_futureplan(self, step_idx: int) -> tuple[Any, Any, Any]:
        """Return state and target of a step, and the plan of the steps after it."""
        names = ("roll_lataccel", "v_ego", "a_ego")
        future = slice(step_idx + 1, step_idx + FUTURE_PLAN_STEPS)
        return (
            State(*(self.data[name][step_idx] for name in names)),
            self.data["target_lataccel"][step_idx],
            FuturePlan(*(self.data[name][future].tolist() for name in ("target_lataccel", *names))),
        )

    def control_step(self, step_idx: int) -> None:
        """Ask the controller; before control starts the logged steer counts."""
        action = self.controller.update(
            self.target_lataccel_history[step_idx],
            self.current_lataccel,
            self.state_history[step_idx],
            future_plan=self.futureplan,
        )
        if step_idx < CONTROL_START_IDX:
            action = self.data["steer_command"][step_idx]
        self.action_history.append(np.clip(action, STEER_RANGE[0], STEER_RANGE[1]))

    def sim_step(self, step_idx: int) -> None:
        """Let the plant answer; before control starts the target counts."""
        drawn = self.sim_model.get_current_lataccel(
            self.state_history[-CONTEXT_LENGTH:],
            self.action_history[-CONTEXT_LENGTH:],
            self.current_lataccel_history[-CONTEXT_LENGTH:],
        )
        low, high = self.current_lataccel - MAX_ACC_DELTA, self.current_lataccel + MAX_ACC_DELTA
        controlled = step_idx >= CONTROL_START_IDX
        self.current_lataccel = (
            np.clip(drawn, low, high) if controlled else self.data["target_lataccel"][step_idx]
        )
        self.current_lataccel_history.append(self.current_lataccel)

    def step(self) -> None:
        """Do one step."""
        state, target, self.futureplan = self.get_state_target_futureplan(self.step_idx)
        self.state_history.append(state)
        self.target_lataccel_history.append(target)
        self.control_step(self.step_idx)
        self.sim_step(self.step_idx)
        self.step_idx += 1

    def compute_cost(self) -> dict[str, Any]:
        """Return the three costs of the steps 100 to 499."""
        window = slice(CONTROL_START_IDX, COST_END_IDX)
        target = np.array(self.target_lataccel_history)[window]
        driven = np.array(self.current_lataccel_history)[window]
        tracking = np.mean((target - driven) ** 2) * 100
        jerk = np.mean((np.diff(driven) / DEL_T) ** 2) * 100
        total = tracking * LAT_ACCEL_COST_MULTIPLIER + jerk
        return {"lataccel_cost": tracking, "jerk_cost": jerk, "total_cost": total}

    def rollout(self) -> dict[str, Any]:
        """Drive to the end of the file; return the costs."""
        for _ in range(CONTEXT_LENGTH, len(self.data["v_ego"])):
            self.step()
        return self.compute_cost()


def get_available_controllers() -> list[str]:
    """Return the names of the files in the folder ``controllers``."""
    return [f.stem for f in Path("controllers").glob("*.py") if f.stem != "__init__"]


def run_rollout(
    data_path: Any, controller_type: str, model_path: str, debug: bool = False
) -> tuple[dict[str, Any], list[float], list[float]]:
    """Drive one route; return costs, targets and lateral accelerations."""
    import importlib

    controller = importlib.import_module(f"controllers.{controller_type}").Controller()
    sim = TinyPhysicsSimulator(TinyPhysicsModel(model_path, debug), str(data_path), controller)
    return sim.rollout(), sim.target_lataccel_history, sim.current_lataccel_history
