"""Files with the names, shapes and layout of the published pendulum checkpoints, and random weights."""

import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LAYER = {
    "self_attn.in_proj_weight": (384, 128), "self_attn.in_proj_bias": (384,),
    "self_attn.out_proj.weight": (128, 128), "self_attn.out_proj.bias": (128,),
    "linear1.weight": (256, 128), "linear1.bias": (256,),
    "linear2.weight": (128, 256), "linear2.bias": (128,),
    "norm1.weight": (128,), "norm1.bias": (128,), "norm2.weight": (128,), "norm2.bias": (128,),
}  # fmt: skip
CROSS = {
    "multihead_attn.in_proj_weight": (384, 128), "multihead_attn.in_proj_bias": (384,),
    "multihead_attn.out_proj.weight": (128, 128), "multihead_attn.out_proj.bias": (128,),
    "norm3.weight": (128,), "norm3.bias": (128,),
}  # fmt: skip
PI0 = {
    "state_embedding.weight": (128, 4), "state_embedding.bias": (128,),
    "action_embedding.weight": (128, 1), "action_embedding.bias": (128,),
    "time_embedding.weight": (128, 1), "time_embedding.bias": (128,),
    "position_embedding.weight": (51, 128),
    "flow_output.weight": (1, 128), "flow_output.bias": (1,),
}  # fmt: skip
FAST = {
    "state_embedding.weight": (128, 4), "state_embedding.bias": (128,),
    "token_embedding.weight": (256, 128), "position_embedding.weight": (25, 128),
    "output_layer.weight": (256, 128), "output_layer.bias": (256,),
}  # fmt: skip


def weights(shapes: dict[str, Any], layer: dict[str, Any], seed: int) -> dict[str, Tensor]:
    """Return weights with the published names and shapes."""
    rng = torch.Generator().manual_seed(seed)
    layers = {f"transformer.layers.{i}.{n}": s for i in range(4) for n, s in layer.items()}
    found = OrderedDict()
    for name, shape in (shapes | layers).items():
        size = 1 / math.sqrt(shape[-1]) if len(shape) > 1 else 0.1
        found[name] = size * torch.randn(shape, generator=rng)
        if "norm" in name and name.endswith("weight"):
            found[name] += 1
    return found


VOCABULARY = {
    **{s: i for i, s in enumerate(("[BOS]", "[EOS]", "[PAD]", "[UNK]"))},
    **{str(v): 4 + i for i, v in enumerate(range(-48, 48))},
    **{",".join(["0"] * (2 + i % 9)) + f",{i}": 100 + i for i in range(156)},
}


def write_repository(root: Path, count: int) -> Path:
    """Lay ``root`` out as the published repository, with ``count`` models a kind."""
    models = root / "train" / "trained_models"
    models.mkdir(parents=True)
    for i in range(count):
        torch.save(weights(PI0, LAYER, i), models / f"tinypi0_20250619_000{i}.pth")
        torch.save(weights(FAST, LAYER | CROSS, i), models / f"tinypi0fast_20250624_000{i}.pth")
    (root / "fast" / "tokenizer").mkdir(parents=True)
    (root / "fast" / "tokenizer" / "fast_tokenizer.json").write_text(
        json.dumps({"vocab": VOCABULARY, "merges": []})
    )
    return root
