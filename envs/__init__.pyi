# The public names of this package; each is imported when it is first used.
from .batch import BatchEnv as BatchEnv, SingleEnv as SingleEnv
from .carla_driver.env import (
    CarlaDriverEnv as CarlaDriverEnv,
    CarlaDriverVectorEnv as CarlaDriverVectorEnv,
)
from .carla_driver.server.connection import ServerLost as ServerLost
from .carla_driver.server.options import ServerOptions as ServerOptions
from .inverted_pendulum.env import (
    InvertedPendulumEnv as InvertedPendulumEnv,
    InvertedPendulumVectorEnv as InvertedPendulumVectorEnv,
)
from .kinematic_driver.env import (
    KinematicDriverEnv as KinematicDriverEnv,
    KinematicDriverVectorEnv as KinematicDriverVectorEnv,
)
from .kinematic_driver.torch_env import KinematicDriverTorchEnv as KinematicDriverTorchEnv
from .sb3 import SB3VecEnv as SB3VecEnv, make_sb3_vec as make_sb3_vec
from .tasks import Task as Task, register_task as register_task
from .tinyphysics.env import (
    TinyPhysicsEnv as TinyPhysicsEnv,
    TinyPhysicsVectorEnv as TinyPhysicsVectorEnv,
)
from .tracking.double_integrator import (
    DoubleIntegratorEnv as DoubleIntegratorEnv,
    DoubleIntegratorVectorEnv as DoubleIntegratorVectorEnv,
)
from .tracking.van_der_pol import (
    VanDerPolEnv as VanDerPolEnv,
    VanDerPolVectorEnv as VanDerPolVectorEnv,
)
from .wrappers.cvar import CVaRReward as CVaRReward, CVaRVectorReward as CVaRVectorReward
from .wrappers.risk_sampler import RiskSampler as RiskSampler
