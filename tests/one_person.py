"""The codecs for one person, in NumPy."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pose.codecs import gaussian, geometry
from pose.codecs.udp import UdpCodec

Array = NDArray[np.float64]


def encode_person(
    codec: UdpCodec, keypoints_input: Array, visibility: Array
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Maps (K or 3 K, H, W) and loss weights (K,) of one person, in NumPy; visibility is COCO's."""
    targets = codec.encode(keypoints_input, codec.keypoint_weights(visibility))
    return codec.render(torch.from_numpy(targets)[None])[0].numpy(), targets[:, 2]


def decode_person(
    codec: UdpCodec, maps: NDArray[np.float32], blur: gaussian.Blur, refine: bool = True
) -> tuple[Array, Array]:
    """Keypoints (K, 2) in input pixels and scores (K,) of one person's maps, in NumPy."""
    cells, scores = codec.decode(torch.from_numpy(maps)[None], blur, refine)
    factor = geometry.input_to_heatmap_factor(codec.input_size, codec.heatmap_size)
    return cells[0].double().numpy() / factor, scores[0].double().numpy()
