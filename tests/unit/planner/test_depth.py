"""A deep model is counted as if all its blocks had been run."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pose.common.params import load_params
from pose.models import sapiens2
from pose.models.pose_model import PoseModel, build_on_meta
from pose.models.spec import ModelSpec
from pose.planner import count
from pose.planner.count import Freeze, count_flops, count_step_bytes, train_all
from pose.planner.depth import Count, equal_blocks, with_blocks
from pose.planner.plan import freezing

ROOT = Path(__file__).resolve().parents[3]
VIT = {"depth": 5, "drop_path": 0.1}
SAPIENS2 = {
    "family": "sapiens2",
    "depth": 7,
    "embed_dim": 32,
    "num_heads": 4,
    "mlp_dim": 64,
}


@pytest.fixture(autouse=True)
def _two_outer_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of 8 at either end of sapiens2."""
    monkeypatch.setattr(sapiens2, "FULL_BLOCKS", 2)


def all_blocks(model: PoseModel, counted: Count, additive: bool = False) -> np.ndarray:
    """Instead of count_by_depth."""
    return counted(with_blocks(model, list(range(len(model.backbone.blocks)))))[0]


def adapters() -> Freeze:
    params = load_params(ROOT / "params.yaml")
    train = params.train.model_copy(update={"finetune": "lora"})
    return freezing(params.model_copy(update={"train": train}), "float32")


@pytest.mark.parametrize("freeze", [train_all, adapters()], ids=["full", "lora"])
@pytest.mark.parametrize("shape", [VIT, SAPIENS2], ids=["vit", "sapiens2"])
def test_as_if_all_blocks_had_been_run(
    shape: dict[str, object],
    freeze: Freeze,
    tiny_model_spec: ModelSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = replace(tiny_model_spec, **shape)
    settings = [("none", False, False), ("bf16", True, True)]
    bytes_of = [
        partial(count_step_bytes, replace(spec, grad_checkpointing=on), amp, freeze, held)
        for amp, on, held in settings
    ]

    def counted() -> tuple[object, ...]:
        steps = [step_bytes() for step_bytes in bytes_of]
        batches = (1, 2, 3, 10, 30, 100, 1000)
        return count_flops(spec, freeze), [[step.at(n) for n in batches] for step in steps]

    by_depth = counted()
    monkeypatch.setattr(count, "count_by_depth", all_blocks)
    assert by_depth == counted()


def test_equal_blocks_follow_each_other(tiny_model_spec: ModelSpec) -> None:
    """The first block has no drop path; the outer ones of sapiens2 have more key heads."""
    vit, grouped = (
        build_on_meta(replace(tiny_model_spec, **shape)).backbone for shape in (VIT, SAPIENS2)
    )
    assert [len(row) for row in equal_blocks(vit.blocks)] == [1, 4]
    assert [len(row) for row in equal_blocks(grouped.blocks)] == [2, 3, 2]
