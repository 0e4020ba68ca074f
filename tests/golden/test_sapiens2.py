"""Sapiens2 and ViTPose++ against numbers of their own code; data/PROVENANCE.md says whence.

With the rotary embedding in bfloat16, another order of float32 sums flips single roundings: numbers
are equal to the bit with one thread of the CPU they were made on, and up to 2e-4 of the scale apart
elsewhere. A rotary embedding in float32 is at least 2.4e-3 away.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pose.engine.losses import keypoint_mse
from pose.models.pose_model import PoseModel
from pose.models.sapiens2 import rotary_tables
from pose.models.spec import ModelSpec
from pose.pretrained.convert import convert
from pose.pretrained.names import our_names
from pose.pretrained.select import read_model

DATA = Path(__file__).with_name("data")
TOLERANCE = {"fp32": 1e-5, "bf16": 5e-4}  # of the largest absolute value
LOSS_WEIGHT = 10  # official

SPECS = {
    "mhsa": ModelSpec((48, 64), 16, 0, 24, 2, 2, 0.0, "sapiens", (16, 12), (12, 10, 8), False, 1,
                      17, "sapiens2", 40, "bf16"),
    "gqa": ModelSpec((48, 64), 16, 0, 16, 18, 2, 0.0, "sapiens", (8, 8), (8, 8, 8), False, 1, 17,
                     "sapiens2", 16, "bf16"),
}  # fmt: skip


def load(case: str, rope_dtype: str) -> tuple[PoseModel, dict[str, Tensor]]:
    """The model of an official pose file, and the arrays of a case."""
    spec = SPECS[case]
    model = PoseModel(ModelSpec(**{**spec.__dict__, "rope_dtype": rope_dtype})).eval()
    state, report = convert(read_model(DATA / f"sapiens2_{case}.safetensors")[0], model, True)
    assert report.dropped == ["backbone.rope_embed.periods"]
    assert report.missing == report.resized == []
    model.load_state_dict(state)
    arrays = np.load(DATA / f"sapiens2_{case}_io.npz")
    return model, {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    scale = float(expected.abs().max())
    assert scale > 0.5
    torch.testing.assert_close(found, expected, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("case", SPECS)
@pytest.mark.parametrize("rope_dtype", ["bf16", "fp32"])
@torch.no_grad()
def test_features_and_heatmaps_of_sapiens2(case: str, rope_dtype: str) -> None:
    model, io = load(case, rope_dtype)
    images, kind = io["x_int8"].float() / 32, "" if rope_dtype == "bf16" else "_fp32_rope"
    assert_near(model.features(images), io[f"feat{kind}"], TOLERANCE[rope_dtype])
    assert_near(model(images), io[f"heatmaps{kind}"], TOLERANCE[rope_dtype])
    other = io["feat_fp32_rope" if rope_dtype == "bf16" else "feat"]
    assert (model.features(images) - other).abs().max() > 2e-3 * other.abs().max()


@torch.no_grad()
def test_any_grid_of_sapiens2() -> None:
    model, io = load("mhsa", "bf16")
    images = io["x_dynamic_int8"].float() / 32
    assert_near(model.features(images), io["feat_dynamic"], TOLERANCE["bf16"])


@pytest.mark.parametrize("case", SPECS)
def test_rotary_tables_are_equal_to_the_bit(case: str) -> None:
    io = dict(np.load(DATA / f"sapiens2_{case}_io.npz"))
    head_dim = SPECS[case].embed_dim // SPECS[case].num_heads
    sin, cos = rotary_tables((4, 3), head_dim, torch.bfloat16, torch.device("cpu"))
    sin[:, : head_dim // 2] *= -1  # ours is signed
    np.testing.assert_array_equal(sin[9:].float().numpy(), io["rope_sin"])
    np.testing.assert_array_equal(cos[9:].float().numpy(), io["rope_cos"])
    assert not sin[:9].any()
    assert (cos[:9] == 1).all()


def test_a_training_step_of_sapiens2() -> None:
    """Loss, and the norm of every gradient."""
    model, io = load("mhsa", "bf16")
    maps = model(io["x_int8"].float() / 32)
    loss = LOSS_WEIGHT * keypoint_mse(maps, io["target_uint8"].float() / 255, io["weight"])
    assert loss.item() == pytest.approx(float(io["loss"]), rel=1e-4)
    loss.backward()
    norms = our_names({k[9:]: norm for k, norm in io.items() if k.startswith("gradnorm/")})
    found = {name: p.grad.norm() for name, p in model.named_parameters() if p.grad is not None}
    assert norms.keys() == found.keys()
    assert len(norms) == 49
    for name, norm in norms.items():  # a bias before an InstanceNorm has no gradient
        torch.testing.assert_close(found[name].double(), norm, rtol=1e-3, atol=1e-6, msg=name)


EXPERT_KEYPOINTS = {0: 17, 1: 14, 5: 133}


@pytest.mark.parametrize("expert", EXPERT_KEYPOINTS)
@torch.no_grad()
def test_experts_of_vitpose(expert: int) -> None:
    """One expert of a whole file, as a plain ViTPose with the expert's own head."""
    count = EXPERT_KEYPOINTS[expert]
    spec = ModelSpec(
        (64, 96), 16, 2, 16, 2, 2, 0.0, "classic", (8, 8), (), False, 1, num_keypoints=count
    )
    model = PoseModel(spec).eval()
    source, _ = read_model(DATA / "vitpose_experts.safetensors")
    names = [f"k{k}" for k in range(count)]
    state, report = convert(source, model, keep_head=True, expert=expert, names=names)
    assert len(report.missing) == 0
    model.load_state_dict(state)
    io = np.load(DATA / "vitpose_experts_io.npz")
    expected = torch.from_numpy(io[f"heatmaps_{expert}"])
    found = model(torch.from_numpy(io["x_int8"]).float() / 32)
    assert_near(found[: len(expected), :17], expected, 1e-5)
