"""A tiny model as predict and export see one: its manifest and its network."""

from __future__ import annotations

import torch

from pose.codecs.gaussian import Blur
from pose.codecs.udp import UdpCodec
from pose.common.skeleton import COCO_17, COCO_OKS_SIGMAS
from pose.deploy.manifest import Manifest
from pose.models.pose_model import PoseModel
from pose.models.spec import ModelSpec


def tiny_manifest(maps_per_keypoint: int = 1) -> Manifest:
    """Of a model of milliseconds: input 24 x 32, maps of 12 x 16 cells.

    An exported blur has a node for each cell of the kernel, so it is a small one.
    """
    return Manifest(
        model=ModelSpec((24, 32), 8, 2, 16, 1, 2, 0.0, "sapiens", (8, 8), (8,), False,
                        maps_per_keypoint, 17),
        codec=UdpCodec("gaussian", (24, 32), (12, 16), 1.5, 0.0546875, COCO_17.flip_indices),
        blur=Blur(5, "zero"),
        skeleton=COCO_17,
        oks_sigmas=tuple(COCO_OKS_SIGMAS.tolist()),
        category_id=1,
        category="person",
        bbox_padding=1.25,
        flip_test=True,
        keypoint_score_thr=0.2,
        oks_nms_thr=0.9,
    )  # fmt: skip


def random_model(law: Manifest | None = None) -> PoseModel:
    """Random weights, large enough that the maps have peaks of about 1."""
    torch.manual_seed(0)
    model = PoseModel((law or tiny_manifest()).model).eval()
    torch.nn.init.normal_(model.head.final_layer.weight)
    return model
