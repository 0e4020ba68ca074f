"""Who teaches a student: a network as it is, or with the exponential average of its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from pose.codecs.udp import UdpCodec
from pose.engine.ema import WeightEma
from pose.engine.fit import ONE_BATCH, Gradients
from pose.engine.validation import eval_mode
from pose.evaluation.predict import predict_maps
from pose.models.build import autocast
from pose.models.pose_model import normalise

Teacher = Callable[[Tensor, Tensor], Tensor]  # images (B, h, w, 3), targets (B, K, 3) -> maps


def network_teacher(
    network: nn.Module,
    codec: UdpCodec,
    device: torch.device,
    amp: str,
    gradients: Gradients = ONE_BATCH,
    ema: WeightEma | None = None,
) -> Teacher:
    """Heatmaps (B, K, H, W) of uint8 images, averaged with those of their mirror images.

    No graph is recorded and targets are ignored. With ema, which averages the network's weights,
    these are swapped in for the forward, in eval mode; so neither DDP nor FSDP needs a copy.
    """

    def run(images_u8: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad(), _teaching(network, ema), autocast(device, amp):
            parts = [
                codec.heatmaps(predict_maps(network, codec, normalise(images), flip=True))
                for (images,) in gradients.split(images_u8)
            ]
        return torch.cat(parts)

    return run


@contextmanager
def _teaching(network: nn.Module, ema: WeightEma | None) -> Iterator[None]:
    if ema is None:
        with without_dropout(network):
            yield
    else:
        with ema.swapped_in(), eval_mode(network):
            yield


@contextmanager
def without_dropout(network: nn.Module) -> Iterator[None]:
    """Inside the context nothing is dropped (drop path, LoRA's dropout): a target has no noise."""
    kinds = DropPath, nn.Dropout
    drops = [part for part in network.modules() if isinstance(part, kinds) and part.training]
    for part in drops:
        part.eval()
    try:
        yield
    finally:
        for part in drops:
            part.train()
