"""describe.py: counts, FLOPs and activation memory from shapes alone."""

from __future__ import annotations

import json
import re
import sys
from functools import cache

import pytest

import apply
import describe
from pose.params import Params

SAPIENS_2B = "sapiens_2b_coco_1024x768"


def forward_flops(params: Params) -> float:
    """Multiply-adds times 2 of patches, blocks and a head of deconvolutions and 1x1s, by hand."""
    model = params.model
    w, h = model.grid_wh(params.codec.input_size)
    tokens, dim = w * h, model.embed_dim
    macs = tokens * 3 * model.patch_size**2 * dim
    macs += model.depth * (12 * tokens * dim**2 + 2 * tokens**2 * dim)
    cells, channels = tokens, dim
    for out in model.deconv_channels:  # each input cell writes 4 x 4 cells
        macs += cells * channels * out * 16
        cells, channels = cells * 4, out
    for out in (*model.conv_channels, 17):
        macs += cells * channels * out
        channels = out
    return 2 * macs


@cache
def described(name: str) -> describe.Description:
    return describe.describe(apply.resolve(name))


@pytest.mark.parametrize("name", apply.names())
def test_a_recipe_is_described(name: str) -> None:
    params = apply.resolve(name)
    found = described(name)
    assert found.flops == pytest.approx(forward_flops(params), rel=0.01)
    assert 0 < found.held_checkpointed < found.held / 2
    header = (apply.RECIPES / f"{name}.yaml").read_text(encoding="utf-8").split("\n\n")[0]
    header = " ".join(header.replace("\n#", " ").split())
    checkpointed = params.model.grad_checkpointing
    held = found.held_checkpointed if checkpointed else found.held
    need = held * 4 * params.train.batch_size + (found.backbone + found.head) * 16
    assert f"by count (describe.py) {need / 1e9:.0f} GB" in header
    factor, epochs = 4 if checkpointed else 3, params.phase2.epochs
    assert f"{factor} x {found.flops / 1e9:,.1f} GFLOP x 149,813 persons x {epochs}" in header
    hours = factor * found.flops * 149_813 * epochs / 3e14 / 3600
    assert f"would take {hours:,.0f} GPU hours at an assumed 300 TFLOP/s" in header


def changed(params: Params, **model: object) -> Params:
    raw = json.loads(params.model_dump_json())
    raw["model"] |= model
    return Params.model_validate_json(json.dumps(raw))


def test_a_block_holds_what_its_layers_read() -> None:
    """16 x tokens x dim: norm 1, qkv 1 + 3, attention 1, norm 1, MLP 1 + 4 + 4."""
    params = apply.load_params(apply.PARAMS)
    small, large = (describe.describe(changed(params, depth=depth)) for depth in (2, 3))
    tokens, dim, heads = 9 * 12, params.model.embed_dim, params.model.num_heads
    scales = 4 * tokens + heads * tokens  # mean and deviation of two norms, a sum an attention row
    block = large.held - small.held
    assert block == 16 * tokens * dim + scales
    assert large.held_checkpointed - small.held_checkpointed == tokens * dim
    assert large.backbone - small.backbone == 12 * dim**2 + 13 * dim


def test_checkpointing_is_counted_either_way() -> None:
    params = apply.load_params(apply.PARAMS)
    with_it = describe.describe(changed(params, grad_checkpointing=True))
    assert with_it == describe.describe(changed(params, grad_checkpointing=False))


def test_two_billion_parameters_on_a_laptop() -> None:
    said = describe.table(SAPIENS_2B, apply.resolve(SAPIENS_2B), described(SAPIENS_2B))
    assert "backbone 2,131,943,040  head 34,224,401" in said
    assert "input 768 x 1024 (w x h)" in said
    rows = re.findall(r"(all kept|grad_checkpointing) +([\d.]+) +([\d.]+)", said)
    assert [row[0] for row in rows] == ["all kept", "grad_checkpointing"]
    assert all(
        float(single) == pytest.approx(2 * float(half), abs=0.02) for _, single, half in rows
    )


def test_params_as_they_are(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["describe.py"])
    describe.main()
    assert capsys.readouterr().out.startswith("params.yaml: input 72 x 96 (w x h)\n")


def test_a_table_shows_its_description() -> None:
    params = apply.load_params(apply.PARAMS)
    found = describe.Description(10**9, 10**8, 5 * 10**9, 10**9, 250_000_000)
    said = describe.table("x", params, found)
    assert "training state    17.6 GB" in said
    assert re.search(r"all kept +4\.00 +2\.00\n +grad_checkpointing +1\.00 +0\.50", said)
    assert "this run, batch 16, float32: 82 GB" in said
