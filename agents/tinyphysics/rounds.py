"""The recipe by gradient: rounds of driving in the plant, modelling it, and improving in the model.

The first drives are those of many random controllers; the policy of a round makes the drives of the
next. The model learns from all of them, so that it is right where the policy drives.
"""

from dataclasses import dataclass
from pathlib import Path

from steerlab.agents.tinyphysics.exploration import MomentExploration, explore
from steerlab.agents.tinyphysics.model import PreviewPolicy
from steerlab.agents.tinyphysics.moments import learn_plant, soft_costs
from steerlab.agents.tinyphysics.recipe import Bench, Trained
from steerlab.agents.tinyphysics.rollout import Roads
from steerlab.agents.tinyphysics.train import GradientConfig, improve
from steerlab.envs.tinyphysics.dynamics import STEPS
from steerlab.files import writable_folder
from steerlab.options import option
from steerlab.seeds import generator_seed
from steerlab.surrogates.plants.moments import MomentPlant


@dataclass(frozen=True)
class RoundsConfig(GradientConfig):
    """Options of :func:`train_by_gradient`."""

    rounds: int = option(2, "rounds of driving, modelling and improving")
    rollouts: int = option(600, "drives in the plant in each round, 50 s each")
    plant_epochs: int = option(10, "passes of the model over the drives, in each round")
    updates: int = option(600, "gradient steps in each round")


def train_by_gradient(bench: Bench, config: RoundsConfig, output: Path) -> Trained:
    """Return the policy of each round."""
    trial = Roads.of(bench.select)
    policies: list[PreviewPolicy] = []
    paths: list[Path] = []
    model: MomentPlant | None = None
    for number in range(config.rounds):
        folder = writable_folder(output / f"round_{number + 1}")
        driver = policies[-1] if policies else bench.start
        paths += explore_moments(bench, config.rollouts, number, folder, driver)
        model = learn_plant(
            model, paths, folder / "plant", epochs=config.plant_epochs, seed=bench.seed, part=number
        )
        policy = bench.first_policy()
        if policies:
            policy.load_state_dict(policies[-1].state_dict())

        def metrics(policy: PreviewPolicy, plant: MomentPlant = model) -> dict[str, float]:
            soft = soft_costs(policy, plant, trial)
            exact = float(bench.selection_costs(policy).mean())
            return {"soft_cost": float(soft.mean()), "total_cost": exact}

        policies.append(
            improve(policy, model, bench.roads, config, folder / "policy", metrics, number)
        )
    return Trained(
        policies,
        plant_steps=config.rounds * config.rollouts * STEPS,
        model_steps=config.rounds * config.updates * config.rows * config.horizon,
    )


def explore_moments(
    bench: Bench, rollouts: int, number: int, folder: Path, policy: PreviewPolicy | None = None
) -> list[Path]:
    """Return the files of a round's drives with the moments of every prediction of the plant.

    Args:
        bench: Plant and routes.
        rollouts: How many drives.
        number: Of the round.
        folder: Where the drives are kept.
        policy: Drives with a little noise on top; None for controllers drawn at random.
    """
    seed = generator_seed("data", bench.seed, number)
    exploration = MomentExploration(bench.plant, bench.train, rollouts, seed, policy)
    return explore(exploration, writable_folder(folder / "drives"), bench.processes)
