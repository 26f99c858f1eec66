"""Small checkouts for the tests: a modeld.py that names what its generation names, a parser, a script.

Parser and script are written for these tests, after the layout that the contracts describe, and share
no code with steerlab.
"""

from pathlib import Path

#: What modeld.py of a generation names.
MODELD = {
    "openpilot-0.10.0": """
from openpilot.selfdrive.controls.lib.drive_helpers import get_curvature_from_plan
POLICY = 'models/driving_policy_tinygrad.pkl'
inputs = {'desire': 0, 'traffic_convention': 0, 'lateral_control_params': 0, 'prev_desired_curv': 0}
""",
    "sunnypilot-2025-08": """
from openpilot.selfdrive.controls.lib.drive_helpers import get_curvature_from_plan
POLICY = 'models/driving_policy_tinygrad.pkl'
inputs = {'desire': 0, 'traffic_convention': 0, 'features_buffer': 0}
""",
    "openpilot-0.10.1": """
from openpilot.common.transformations.model import get_warp_matrix
from openpilot.selfdrive.controls.lib.drive_helpers import get_curvature_from_plan
POLICY = 'models/driving_policy_tinygrad.pkl'
inputs = {'desire_pulse': 0, 'traffic_convention': 0, 'features_buffer': 0}
""",
    "openpilot-0.11.0": """
POLICY = 'models/driving_policy_tinygrad.pkl'
warp = f'models/warp_{w}x{h}_tinygrad.pkl'
inputs = {'desire_pulse': 0, 'traffic_convention': 0, 'features_buffer': 0}
""",
    "openpilot-supercombo-2026-06": """
from openpilot.selfdrive.modeld.compile_modeld import make_input_queues
inputs = {'desire_pulse': 0, 'action_t': 0}
def run(prepare_only): ...
""",
    "openpilot-supercombo-2026-07": """
from openpilot.selfdrive.modeld.compile_modeld import make_input_queues
inputs = {'desire_pulse': 0, 'action_t': 0}
""",
    "openpilot-supercombo-2026-09": """
outputs = run(inputs, output_buffers=buffers)
inputs = {'desire': 0, 'action_t': 0}
""",
}

PARSER = """
import numpy as np
from openpilot.selfdrive.modeld.constants import ModelConstants as C

def share(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)

def spread(x):
  return np.exp(np.minimum(x, 11.0))

class Parser:
  def gaussian(self, outs, name, shape):
    n = outs[name].shape[1] // 2
    outs[name + '_stds'] = spread(outs[name][:, n:]).reshape(1, *shape)
    outs[name] = outs[name][:, :n].reshape(1, *shape)

  def mixture(self, outs, name, shape, count, picks):
    rows = outs[name].reshape(count, -1)
    n = (rows.shape[1] - picks) // 2
    best = np.argmax(rows[:, -picks:], axis=0)
    outs[name] = rows[best, :n].reshape(1, *([picks] if picks > 1 else []), *shape)
    outs[name + '_stds'] = spread(rows[best, n:2 * n]).reshape(outs[name].shape)

  def parse_vision_outputs(self, outs):
    self.gaussian(outs, 'pose', (6,))
    self.gaussian(outs, 'wide_from_device_euler', (3,))
    self.gaussian(outs, 'road_transform', (6,))
    self.gaussian(outs, 'lane_lines', (4, C.IDX_N, 2))
    self.gaussian(outs, 'road_edges', (2, C.IDX_N, 2))
    if outs['lead'].shape[1] == 144:
      self.gaussian(outs, 'lead', (3, 6, 4))
    else:
      self.mixture(outs, 'lead', (6, 4), 2, 3)
    for name in ('lead_prob', 'lane_lines_prob', 'meta'):
      outs[name] = 1 / (1 + np.exp(-outs[name]))
    outs['desire_pred'] = share(outs['desire_pred'].reshape(1, 4, 8))
    return outs

  def parse_policy_outputs(self, outs):
    if outs['plan'].shape[1] == 990:
      self.gaussian(outs, 'plan', (C.IDX_N, 15))
    else:
      self.mixture(outs, 'plan', (C.IDX_N, 15), 5, 1)
    if 'desired_curvature' in outs:
      self.gaussian(outs, 'desired_curvature', (1,))
    outs['desire_state'] = share(outs['desire_state'])
    return outs

  def parse_outputs(self, outs):
    return self.parse_policy_outputs(self.parse_vision_outputs(outs))
"""

SCRIPT = """
import codecs, pickle, sys
from pathlib import Path
import onnx

path = Path(sys.argv[1])
model = onnx.load(path)
text = {p.key: p.value for p in model.metadata_props}
shape = lambda v: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
found = {
  'model_checkpoint': text.get('model_checkpoint'),
  'output_slices': pickle.loads(codecs.decode(text['output_slices'].encode(), 'base64')),
  'input_shapes': {i.name: shape(i) for i in model.graph.input},
  'output_shapes': {o.name: shape(o) for o in model.graph.output},
}
path.with_name(path.stem + '_metadata.pkl').write_bytes(pickle.dumps(found))
"""
#: Files of other models, and of the models that are replaced.
OLD = ("dmonitoring_model.onnx", "driving_vision.onnx", "driving_policy.onnx",
       "driving_vision_metadata.pkl", "driving_policy_metadata.pkl", "driving_vision_tinygrad.pkl",
       "driving_policy_tinygrad.pkl")  # fmt: skip


def make_checkout(
    root: Path,
    contract: str,
    *,
    inside: bool = False,
    sunny: bool = False,
    modeld: str = "",
    parser: str = PARSER,
    script: str = SCRIPT,
) -> Path:
    """Write a checkout; return its folder of models.

    Args:
        root: Where.
        contract: A key of MODELD.
        inside: modeld lies in the package, as from 2026 on.
        sunny: It is one of sunnypilot.
        modeld: Another text of modeld.py.
        parser: Another parser.
        script: Another metadata script.
    """
    code = root / ("openpilot/selfdrive/modeld" if inside else "selfdrive/modeld")
    models = code / "models"
    models.mkdir(parents=True)
    (root / "SConstruct").touch()
    (code / "modeld.py").write_text(modeld or MODELD[contract])
    (code / "constants.py").write_text("class ModelConstants:\n  IDX_N = 33\n")
    (code / "parse_model_outputs.py").write_text(parser)
    (code / "get_model_metadata.py").write_text(script)
    version = root / ("openpilot/common" if inside else "common") / "version.h"
    version.parent.mkdir(parents=True)
    version.write_text('#define COMMA_VERSION "0.10.9"\n')
    if sunny:
        (root / "sunnypilot" / "modeld_v2").mkdir(parents=True)
    for name in OLD:
        (models / name).write_bytes(f"old {name}".encode())
    return models


def contents(root: Path) -> dict[str, bytes | None]:
    """Return everything below a folder: folders, and files with what is in them and their mode."""
    return {
        str(path.relative_to(root)): None
        if path.is_dir()
        else oct(path.stat().st_mode).encode() + path.read_bytes()
        for path in sorted(root.rglob("*"))
    }
