# The public names of this package; each is imported when it is first used.
from .onnx import export_onnx as export_onnx
from .openpilot import export_model as export_model
from .planner import export_planner as export_planner
from .planner_pickle import pickle_planner as pickle_planner
from .policy import export_policy as export_policy
from .sb3 import export_sb3 as export_sb3
from .tinygrad import compile_tinygrad as compile_tinygrad
from .tinyphysics import write_controller as write_controller
from .verify import verify_export as verify_export
