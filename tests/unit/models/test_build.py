"""The model of params.yaml, and torch's settings for a run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pose.common import stage
from pose.common.params import Params, load_params
from pose.common.skeleton import COCO_17, Skeleton
from pose.models import build

TWO = Skeleton(("nose", "tail"), (), (), (), ())


@pytest.fixture
def params() -> Params:
    return load_params(stage.ROOT / "params.yaml")


@pytest.mark.parametrize(("codec", "maps"), [("gaussian", 1), ("combined", 3)])
@pytest.mark.parametrize("skeleton", [COCO_17, TWO])
def test_the_head_has_the_maps_of_codec_and_keypoints(
    params: Params, codec: str, maps: int, skeleton: Skeleton
) -> None:
    changed = params.model_copy(update={"codec": params.codec.model_copy(update={"type": codec})})
    w, h = params.codec.input_size
    with torch.no_grad():
        heatmaps = build.build_model(changed, skeleton).eval()(torch.zeros(1, 3, h, w))
    size = params.codec.heatmap_size
    assert heatmaps.shape == (1, maps * skeleton.num_keypoints, size[1], size[0])


def test_setup_seeds_torch_and_asks_for_deterministic_operations(params: Params) -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    parts = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    precisions = [part.fp32_precision for part in parts]
    settings = params.run.model_copy(update={"seed": 5, "threads": 1})
    try:
        build.setup_torch(params.model_copy(update={"run": settings}))
        first = torch.rand(3)
        build.setup_torch(params.model_copy(update={"run": settings}))
        assert torch.equal(torch.rand(3), first)
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        faster = params.train.model_copy(update={"tf32": True})
        build.setup_torch(params.model_copy(update={"run": settings, "train": faster}))
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        for part, precision in zip(parts, precisions, strict=True):
            part.fp32_precision = precision


@pytest.mark.parametrize(
    ("amp", "dtype"), [("none", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_matrix_products_run_in_the_type_of_amp(amp: str, dtype: torch.dtype) -> None:
    with build.autocast(torch.device("cpu"), amp):
        assert nn.Linear(4, 4)(torch.ones(1, 4)).dtype == dtype
