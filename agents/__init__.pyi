# The public names of this package; each is imported when it is first used.
from .checkpoint import load_checkpoint as load_checkpoint, save_checkpoint as save_checkpoint
from .classical.comma import controller_factory as controller_factory
from .classical.lqr import lqr_gain as lqr_gain
from .classical.pid import PID as PID
from .classical.preview import PreviewDriver as PreviewDriver
from .classical.tracking import optimal_controls as optimal_controls
from .pi0.model import Pi0 as Pi0
from .pi0_fast.model import Pi0Fast as Pi0Fast
from .pi0_fast.tokenizer import FastTokenizer as FastTokenizer
from .policynet.driver import OpenpilotDriver as OpenpilotDriver
from .policynet.model import PolicyNet as PolicyNet
from .policynet.train import load_policy as load_policy
from .recurrent_ppo.policy import SequencePolicy as SequencePolicy
from .recurrent_ppo.train import load_driver as load_driver
from .run_log import RunLog as RunLog, read_log as read_log
from .supervised import FitConfig as FitConfig, TensorData as TensorData, fit as fit
from .tinyphysics.controller import PolicyController as PolicyController
from .tinyphysics.model import PreviewPolicy as PreviewPolicy
from .trc.data import load_dataset as load_dataset
from .trc.model import MlpPlanner as MlpPlanner, TinyRecursiveControl as TinyRecursiveControl
from .trc.train import load_planner as load_planner
