"""The learned plants: one distribution in four forms, and in onnxruntime, for each architecture."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from steerlab.errors import InputError
from steerlab.experiments.train_surrogate import Config
from steerlab.exporters.plant import export_plant
from steerlab.readers.graphs import write_graph
from steerlab.surrogates.plants.architectures import ARCHITECTURES, build, read_surrogate
from steerlab.surrogates.plants.base import probabilities
from steerlab.surrogates.plants.gru import GruSurrogate
from steerlab.surrogates.plants.last_position import keep_last_position
from steerlab.surrogates.plants.onnx import OnnxPlant
from steerlab.surrogates.plants.shaped import BIN_WIDTH, CENTER, ModelPlant, ShapedSurrogate
from steerlab.surrogates.plants.torch import TorchPlant


def inputs(count: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    states = rng.normal(0, 0.5, (count, 20, 4)).astype(np.float32)
    states[..., 2] = rng.uniform(-0.1, 40, (count, 1))
    first, steps = rng.uniform(0, 1024, (count, 1)), rng.uniform(-9, 10, (count, 20))
    tokens = np.floor(first + steps).clip(0, 1023).astype(np.int64)
    return torch.from_numpy(states), torch.from_numpy(tokens)


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def model(request: pytest.FixtureRequest) -> ShapedSurrogate:
    torch.manual_seed(1)
    model = ARCHITECTURES[request.param]("small")
    model.fit_normaliser(*inputs(64))
    with torch.no_grad():
        for weight in model.head.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model.eval()


def name_of(model: ShapedSurrogate) -> str:
    return next(name for name, kind in ARCHITECTURES.items() if isinstance(model, kind))


@torch.no_grad()
def test_forms_agree(model: ShapedSurrogate) -> None:
    states, tokens = inputs()
    whole = model(states, tokens)
    assert whole.shape == (8, 20, 1024)
    expected = whole[:, -1].softmax(-1)
    torch.testing.assert_close(model.last(states, tokens).softmax(-1), expected)
    soft = model.forward_soft(states, (tokens.double() - CENTER).float() * BIN_WIDTH)
    torch.testing.assert_close(soft.softmax(-1), expected, atol=2e-3, rtol=0.0)
    start = torch.full((8, 5), 0)
    band = model.band(states, tokens, start, 1024).softmax(-1)
    torch.testing.assert_close(band, whole[:, -5:].softmax(-1), atol=2e-3, rtol=0.0)
    start[:, 2] = -1  # cells over all bins for one position, a band for the others
    mixed = model.band(states, tokens, start, 128)
    cells = whole[:, -3].softmax(-1).unflatten(-1, (128, 8)).sum(-1)
    torch.testing.assert_close(mixed[:, 2].exp(), cells, atol=2e-3, rtol=0.0)
    torch.testing.assert_close(
        mixed[:, 1].exp(), whole[:, -4].softmax(-1)[:, :128], atol=2e-3, rtol=0.0
    )


@torch.no_grad()
def test_mean_reaches_from_one_end_to_the_other() -> None:
    model = GruSurrogate("small").eval()
    last = model.head[-1]
    assert isinstance(last, torch.nn.Linear)
    states, tokens = inputs()
    for sign in (-1, 1):
        last.weight.zero_()
        last.bias.zero_()
        last.bias[0] = sign * float(np.arcsinh(40.0))  # 400 bins
        mean = model.last(states, tokens.clip(450, 570)).softmax(-1) @ torch.arange(1024.0)
        torch.testing.assert_close(
            mean, tokens.clip(450, 570)[:, -1] + 400.0 * sign, atol=1.0, rtol=0
        )


@torch.no_grad()
@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_prediction_moves_with_the_tokens_and_is_narrow(architecture: str) -> None:
    torch.manual_seed(0)
    fresh = build(architecture, "medium").eval()
    states, tokens = inputs(50)
    tokens = tokens.clip(100, 900)
    mean = fresh.last(states, tokens).softmax(-1) @ torch.arange(1024.0)
    assert (mean - tokens[:, -1]).abs().max() < 10  # before training: as before, a few bins wide


def test_causal(model: ShapedSurrogate) -> None:
    states, tokens = inputs()
    changed = states.clone()
    changed[:, 12:] += 1.0
    with torch.no_grad():
        a, b = model(states, tokens), model(changed, tokens)
    assert torch.equal(a[:, :12], b[:, :12])
    assert not torch.allclose(a[:, 12:], b[:, 12:])


def test_gradients_reach_steer_and_history(model: ShapedSurrogate) -> None:
    states, tokens = inputs()
    states.requires_grad_()
    lataccel = ((tokens - CENTER) * BIN_WIDTH).float().requires_grad_()
    model.expect(model.forward_soft(states, lataccel)).sum().backward()
    assert states.grad is not None
    assert lataccel.grad is not None
    assert states.grad[:, -3:, 0].abs().min() > 0
    assert lataccel.grad.abs().sum(dim=1).min() > 0


@pytest.fixture(scope="module")
def exported(model: ShapedSurrogate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plant") / "plant.onnx"
    export_plant(model, path, Config(architecture=name_of(model), size="small"), 18)
    return path


def test_exported_file(model: ShapedSurrogate, exported: Path) -> None:
    session = ort.InferenceSession(str(exported))
    signature = {i.name: (i.type, i.shape[1:]) for i in session.get_inputs()}
    assert signature == {"states": ("tensor(float)", [20, 4]), "tokens": ("tensor(int64)", [20])}
    for count in (1, 7):  # the official simulator's call, and a batch
        states, tokens = (x.numpy() for x in inputs(count, 3))
        (logits,) = session.run(None, {"states": states, "tokens": tokens})
        assert logits.shape == (count, 20, 1024)
        assert logits.dtype == np.float32
        chances = probabilities(logits)
        np.random.RandomState(0).choice(1024, p=chances[0, -1])  # as the official script draws
        expected = probabilities(ModelPlant(model).logits(states, tokens))
        for plant in (OnnxPlant(exported), OnnxPlant(exported, fast=True), TorchPlant(exported)):
            found = probabilities(plant.logits(states, tokens))
            np.testing.assert_allclose(found, expected, atol=2e-3)


def test_fast_runtime_computes_the_logits_of_the_last_position_only(exported: Path) -> None:
    proto = keep_last_position(onnx.load(str(exported)))
    shapes = onnx.shape_inference.infer_shapes(proto).graph
    made = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in shapes.value_info}
    (wide,) = (made[node.output[0]] for node in proto.graph.node if node.op_type == "MatMul"
               and made[node.output[0]][-1] == 1024)  # fmt: skip
    assert wide[1:] == [1, 1024]
    states, tokens = (x.numpy() for x in inputs(9, 5))
    exact, fast = (OnnxPlant(exported, fast=f).logits(states, tokens) for f in (False, True))
    np.testing.assert_allclose(fast, exact, rtol=1e-6, atol=1e-5)


def test_torch_runtime_reads_the_weights_back(model: ShapedSurrogate, exported: Path) -> None:
    read = TorchPlant(exported, "cpu").model
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], weight)


def test_what_an_exporter_folds_does_not_matter(model: ShapedSurrogate, exported: Path) -> None:
    """Weights behind operations that are left to run time, as some versions of the exporter do."""
    proto = onnx.load(str(exported))
    moved = []
    for initializer in list(proto.graph.initializer):
        if initializer.name in model.state_dict():
            initializer.name += "/stored"
            original = initializer.name.removesuffix("/stored")
            moved.append(onnx.helper.make_node("Identity", [initializer.name], [original]))
    nodes = [*moved, *proto.graph.node]
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    read = read_surrogate(proto, metadata, "file")
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], weight)


def test_torch_runtime_refuses_a_file_of_another_version(exported: Path, tmp_path: Path) -> None:
    proto = onnx.load(str(exported))
    kept = [entry for entry in proto.metadata_props if entry.key != "steerlab.form"]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    write_graph(tmp_path / "old.onnx", proto)
    with pytest.raises(InputError, match=r"old\.onnx' was exported by another version"):
        TorchPlant(tmp_path / "old.onnx")
    assert OnnxPlant(tmp_path / "old.onnx").logits(*(x.numpy() for x in inputs(1))).shape == (
        1,
        1024,
    )


@pytest.mark.slow
def test_another_opset(model: ShapedSurrogate, tmp_path: Path) -> None:
    export_plant(
        model, tmp_path / "plant.onnx", Config(architecture=name_of(model), size="small"), 20
    )
    assert onnx.load(str(tmp_path / "plant.onnx")).opset_import[0].version == 20


def test_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'medium'"):
        build("gru", "medum")
    with pytest.raises(InputError, match="unknown architecture 'lstm'"):
        build("lstm", "small")
    for architecture in ("gru", "tcn"):
        small, medium, large = (
            sum(p.numel() for p in build(architecture, size).parameters())
            for size in ("small", "medium", "large")
        )
        assert small < medium < large
