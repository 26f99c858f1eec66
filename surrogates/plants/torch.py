"""comma's transformer in torch, with the weights of the ONNX file: on the GPU, and differentiable.

Architecture (read off the file): GPT of 4 layers, 4 heads, width 128, tanh-GELU, pre-LayerNorm,
causal, no biases in the linear layers of a block, learned positions.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from steerlab.devices import torch_device
from steerlab.errors import InputError
from steerlab.surrogates.plants.architectures import read_surrogate
from steerlab.surrogates.plants.base import CONTEXT, TEMPERATURE, Plant
from steerlab.surrogates.plants.constants import constants
from steerlab.surrogates.plants.onnx import read_model
from steerlab.surrogates.plants.tokens import BINS, LIMIT, VOCABULARY
from steerlab.types import Singles


class _Block(nn.Module):
    """One transformer layer; with ``last`` it computes the last position only."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.merge = nn.Linear(width, width, bias=False)
        self.norm_2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden, bias=False)
        self.contract = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, last: bool = False) -> Tensor:
        batch, length, width = x.shape
        query, key, value = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.norm_1(x)).chunk(3, dim=-1)
        )
        if last:  # the last position sees all others: no mask is left
            x, query = x[:, -1:], query[:, :, -1:]
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=not last)
        x = x + self.merge(seen.transpose(1, 2).reshape(batch, -1, width))
        return x + self.contract(F.gelu(self.expand(self.norm_2(x)), approximate="tanh"))


class CommaGPT(nn.Module):
    """Logits (B, 1024) of the next token from states (B, 20, 4) and tokens (B, 20)."""

    def __init__(self, layers: int, heads: int, width: int, hidden: int) -> None:
        super().__init__()
        self.embed_state = nn.Linear(4, width // 2)
        self.embed_token = nn.Embedding(VOCABULARY, width // 2)
        self.position = nn.Parameter(torch.zeros(CONTEXT, width))
        self.blocks = nn.ModuleList(_Block(width, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.bins: Tensor
        self.register_buffer("bins", torch.from_numpy(BINS.astype(np.float32)))

    def forward(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits for tokens (int64)."""
        return self._decode(states, self.embed_token(tokens))

    def forward_soft(self, states: Tensor, lataccel: Tensor) -> Tensor:
        """Return the logits for lateral accelerations (B, 20) in m/s^2, differentiably.

        The embedding is interpolated between the two neighbouring tokens, so it equals that of a
        token at the value of the token.
        """
        place = (lataccel.clamp(-LIMIT, LIMIT) + LIMIT) * ((VOCABULARY - 1) / (2 * LIMIT))
        lower = place.detach().floor().long().clamp(max=VOCABULARY - 2)
        share = (place - lower).unsqueeze(-1)
        table = self.embed_token
        return self._decode(states, (1 - share) * table(lower) + share * table(lower + 1))

    def expect(self, logits: Tensor) -> Tensor:
        """Return the expected lateral acceleration (B,), m/s^2, at the sampling temperature."""
        return torch.softmax(logits / TEMPERATURE, dim=-1) @ self.bins

    def _decode(self, states: Tensor, tokens: Tensor) -> Tensor:
        x = torch.cat([self.embed_state(states), tokens], dim=-1) + self.position
        for place, block in enumerate(self.blocks):
            x = block(x, last=place == len(self.blocks) - 1)
        return self.head(self.norm(x))[:, -1]


def read_network(path: str | Path) -> nn.Module:
    """Read a network of ours or comma's from its ONNX file, which the file's metadata name.

    Raises:
        InputError: The graph is another architecture.
    """
    proto = read_model(path)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    if "steerlab.architecture" in metadata:
        return read_surrogate(proto, metadata, path)
    return read_comma_gpt(path)


def read_comma_gpt(path: str | Path) -> CommaGPT:
    """Read comma's transformer from its ONNX file.

    Raises:
        InputError: The graph is another architecture.
    """
    proto = read_model(path)
    graph, stored = proto.graph, constants(proto)
    try:
        weights = _comma_weights(graph, stored)
        layers = 1 + max(int(k.split(".")[1]) for k in weights if k.startswith("blocks."))
        width = weights["norm.weight"].shape[0]
        hidden = weights["blocks.0.expand.weight"].shape[0]
        mask = stored["transformer.h.0.attn.bias"]
        if mask.shape[-1] != CONTEXT:
            raise KeyError("causal mask")
        model = CommaGPT(layers, 4, width, hidden)
        model.load_state_dict(
            {k: torch.from_numpy(np.array(v, dtype=np.float32)) for k, v in weights.items()},
            strict=False,
        )
        missing = set(dict(model.named_parameters())) - set(weights)
        if missing:
            raise KeyError(min(missing))
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(
            f"plant {str(path)!r} is not comma's transformer ({error} not found), and the torch "
            "runtime knows no other; use runtime=exact or runtime=fast"
        ) from error
    return model.eval()


def _comma_weights(
    graph: onnx.GraphProto, stored: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return the weights of the graph under the names of :class:`CommaGPT`."""
    matrices = {
        node.name: stored[node.input[1]].T
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in stored
    }
    weights = {
        "embed_state.weight": matrices["/wt_embedding/MatMul"],
        "embed_state.bias": stored["transformer.wt_embedding.bias"],
        "embed_token.weight": stored["transformer.wt2_embedding.weight"],
        "position": stored["transformer.wp_embedding.weight"],
        "norm.weight": stored["transformer.layer_norm_f.weight"],
        "norm.bias": stored["transformer.layer_norm_f.bias"],
        "head.weight": matrices["/lm_head/MatMul"],
    }
    layers = {name.split(".")[2] for name in stored if name.startswith("transformer.h.")}
    for layer in sorted(layers):
        block, graph_block, here = f"blocks.{layer}", f"/h.{layer}", f"transformer.h.{layer}"
        for ours, theirs in (("norm_1", "attn.layer_norm"), ("norm_2", "mlp.layer_norm")):
            for part in ("weight", "bias"):
                weights[f"{block}.{ours}.{part}"] = stored[f"{here}.{theirs}.{part}"]
        for ours, theirs in (
            ("qkv", "attn/c_attn"),
            ("merge", "attn/c_proj"),
            ("expand", "mlp/c_fc"),
            ("contract", "mlp/c_proj"),
        ):
            weights[f"{block}.{ours}.weight"] = matrices[f"{graph_block}/{theirs}/MatMul"]
    return weights


class TorchPlant(Plant):
    """A plant whose network runs in torch; draws are made on its device.

    On a GPU each batch size is captured as a CUDA graph on first use.

    Attributes:
        model: The network, with ``forward``, ``forward_soft`` and ``expect`` for those who
            differentiate through it.
    """

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        self.path = Path(path)
        self.device = torch_device(device)
        self.model = read_network(path).to(self.device).requires_grad_(False)
        self._last = getattr(self.model, "last", self.model)
        self._graphs: dict[int, _CapturedSampler] = {}

    @torch.no_grad()
    def logits(self, states: NDArray[np.float32], tokens: NDArray[np.int64]) -> Singles:
        """Return the logits (B, 1024) of the next token."""
        return self._last(*self._upload(states, tokens)).cpu().numpy()

    @torch.no_grad()
    def sample(
        self,
        states: NDArray[np.float32],
        tokens: NDArray[np.int64],
        uniforms: NDArray[np.float64],
    ) -> NDArray[np.intp]:
        """Return the next tokens (B,), drawn with one uniform number in [0, 1) a row."""
        inputs = (*self._upload(states, tokens), torch.from_numpy(uniforms).to(self.device))
        if self.device.type != "cuda":
            return self._draw(*inputs).numpy()
        if len(states) not in self._graphs:
            self._graphs[len(states)] = _CapturedSampler(self._draw, inputs)
        return self._graphs[len(states)](inputs).cpu().numpy()

    def _draw(self, states: Tensor, tokens: Tensor, uniforms: Tensor) -> Tensor:
        chances = torch.softmax(self._last(states, tokens) / TEMPERATURE, dim=-1)
        cdf = chances.double().cumsum(dim=-1)
        return (cdf <= uniforms[:, None] * cdf[:, -1:]).sum(dim=-1).clamp(max=VOCABULARY - 1)

    def _upload(self, states: NDArray[Any], tokens: NDArray[Any]) -> tuple[Tensor, Tensor]:
        return tuple(
            torch.from_numpy(np.ascontiguousarray(a)).to(self.device) for a in (states, tokens)
        )  # type: ignore[return-value]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, str(self.device))


class _CapturedSampler:
    """A function of fixed shapes as one CUDA graph with its own input and output buffers."""

    def __init__(self, function: Any, example: tuple[Tensor, ...]) -> None:
        self._inputs = tuple(t.clone() for t in example)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # capture needs a warm allocator and chosen kernels
            for _ in range(3):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output: Tensor = function(*self._inputs)

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        self._graph.replay()
        return self._output
