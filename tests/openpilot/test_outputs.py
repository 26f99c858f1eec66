"""Packing and parsing are inverse, and parsing is what openpilot's parser does."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from steerlab.errors import InputError
from steerlab.openpilot.contracts import Model, contract, contract_ids
from steerlab.openpilot.outputs import pack, parse, unpack

MODELS = [contract(i).model(n) for i in contract_ids() for n in contract(i).model_names]
MODELS.append(contract("openpilot-0.10.1").model("driving_policy", heads={"plan": 4955}))
MODELS.append(
    contract("openpilot-supercombo-2026-06").model(
        "driving_supercombo", heads={"action": 2, "lead": 102}
    )
)


def random_tensors(model: Model, rows: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(rows, *shape, generator=generator)
        for head in model.heads.values()
        for name, shape in head.tensors.items()
    }


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(MODELS), st.integers(1, 3), st.integers(0, 2**31))
def test_unpack_is_the_inverse_of_pack(model: Model, rows: int, seed: int) -> None:
    tensors = random_tensors(model, rows, seed)
    flat = pack(model, tensors).numpy()
    assert flat.shape == (rows, model.length)
    back = unpack(model, flat)
    assert back.keys() == tensors.keys()
    for name, values in back.items():
        np.testing.assert_array_equal(values, tensors[name].numpy())


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(MODELS), st.integers(0, 2**31))
def test_parse_recovers_meaning(model: Model, seed: int) -> None:
    tensors = random_tensors(model, 2, seed)
    flat = pack(model, tensors).numpy()
    before = flat.copy()
    parsed = parse(model.slices, flat)
    np.testing.assert_array_equal(flat, before)
    for head in model.heads.values():
        if head.kind == "softmax":
            expected = torch.softmax(tensors[f"{head.name}_logits"], -1)
            np.testing.assert_allclose(parsed[head.name], expected, rtol=1e-5)
        elif head.kind == "sigmoid":
            expected = torch.sigmoid(tensors[f"{head.name}_logits"])
            np.testing.assert_allclose(parsed[head.name], expected, rtol=1e-5)
        elif head.kind in ("raw", "gaussian"):
            np.testing.assert_array_equal(parsed[head.name], tensors[head.name].numpy())
        if head.kind == "gaussian":
            std = tensors[f"{head.name}_log_std"].exp()
            np.testing.assert_allclose(parsed[f"{head.name}_stds"], std, rtol=1e-5)


def test_mixtures_give_the_likeliest_hypothesis() -> None:
    model = contract("openpilot-0.10.0").model("driving_policy")
    tensors = random_tensors(model, 2, 0)
    tensors["plan_logits"] = torch.tensor([[0.0, 3, 1, 2, -1], [9.0, 8, 7, 6, 5]])[..., None]
    parsed = parse(model.slices, pack(model, tensors).numpy())
    np.testing.assert_array_equal(parsed["plan"][0], tensors["plan"][0, 1])
    np.testing.assert_array_equal(parsed["plan"][1], tensors["plan"][1, 0])
    np.testing.assert_array_equal(
        parsed["plan_hypotheses"][0], tensors["plan"][0, [1, 3, 2, 0, 4]].numpy()
    )
    assert np.all(np.diff(parsed["plan_weights"][..., 0]) < 0)
    np.testing.assert_allclose(parsed["plan_weights"].sum(1), 1, rtol=1e-6)


def test_each_selection_of_the_lead_has_its_own_best() -> None:
    model = contract("openpilot-0.10.0").model("driving_vision")
    tensors = random_tensors(model, 1, 0)
    tensors["lead_logits"] = torch.tensor([[[5.0, -5, 5], [-5, 5, -5]]])
    parsed = parse(model.slices, pack(model, tensors).numpy())
    assert parsed["lead"].shape == (1, 3, 6, 4)
    np.testing.assert_array_equal(parsed["lead"][0], tensors["lead"][0, [0, 1, 0]].numpy())


def test_std_is_the_clipped_exponential() -> None:
    model = contract("openpilot-0.10.0").model("driving_policy")
    tensors = random_tensors(model, 1, 0)
    tensors["desired_curvature_log_std"] = torch.tensor([[40.0]])
    parsed = parse(model.slices, pack(model, tensors).numpy())
    assert parsed["desired_curvature_stds"].item() == pytest.approx(np.exp(11), rel=1e-6)


def test_packing_passes_gradients() -> None:
    model = contract("openpilot-0.10.0").model("driving_policy")
    tensors = {n: t.requires_grad_() for n, t in random_tensors(model, 2, 0).items()}
    pack(model, tensors).sum().backward()
    for tensor in tensors.values():
        assert tensor.grad is not None
        assert torch.all(tensor.grad == 1)


def test_errors_name_the_tensor() -> None:
    model = contract("openpilot-0.10.1").model("driving_policy")
    tensors = random_tensors(model, 1, 0)
    with pytest.raises(InputError, match="plan_log_std"):
        pack(model, tensors | {"plan_logstd": tensors["plan"]})
    with pytest.raises(InputError, match="'plan_log_std' has shape"):
        pack(model, tensors | {"plan_log_std": tensors["plan"][:, :5]})
    del tensors["desire_state_logits"]
    with pytest.raises(InputError, match="needs the tensor 'desire_state_logits'"):
        pack(model, tensors)
    with pytest.raises(InputError, match=r"\(B, 1000\)"):
        unpack(model, np.zeros((1, 999)))
    with pytest.raises(InputError, match="no form of width 991"):
        parse({"plan": slice(0, 991)}, np.zeros((1, 1000)))
