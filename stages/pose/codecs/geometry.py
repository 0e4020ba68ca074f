"""Box geometry, the UDP affine and its exact inverse, and warping of images.

Spaces: *image* (pixels of the photo), *input* (pixels of the network's crop), *heatmap* (cells).
Lengths are distances between pixel centres, so that an image is w - 1 wide, not w (UDP, Huang et
al., CVPR 2020). Boxes are COCO's xywh; `scale` is the crop's (w, h) in image pixels.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Image = NDArray[np.uint8]


def fix_aspect(scale: Array, input_wh: tuple[int, int]) -> Array:
    """The smallest (w, h) of the input's aspect ratio that holds `scale`.

    >>> fix_aspect(np.array([90.0, 80.0]), (192, 256))
    array([ 90., 120.])
    """
    w, h = scale
    aspect = input_wh[0] / input_wh[1]
    return np.array([w, w / aspect]) if w > h * aspect else np.array([h * aspect, h])


def bbox_to_center_scale(
    bbox_xywh: Array, padding: float, input_wh: tuple[int, int]
) -> tuple[Array, Array]:
    """Centre (2,) of the box, and its size (2,) times `padding`, aspect fixed; image pixels."""
    x, y, w, h = bbox_xywh
    center = np.array([x + w / 2, y + h / 2])
    return center, fix_aspect(np.array([w, h]) * padding, input_wh)


def padded_areas(boxes_xywh: Array, padding: float, input_wh: tuple[int, int]) -> Array:
    """Areas (N,), square pixels, of boxes (N, 4) padded and aspect-fixed as above; for OKS-NMS."""
    sizes = [bbox_to_center_scale(box, padding, input_wh)[1] for box in boxes_xywh]
    return np.array([np.prod(size) for size in sizes])


def udp_affine(
    center: Array, scale: Array, rotation_deg: float, input_wh: tuple[int, int]
) -> Array:
    """(2, 3) affine, image -> input: the box `center`, `scale` fills the input exactly.

    Source: Sapiens pose/mmpose/structures/bbox/transforms.py, get_udp_warp_matrix. Positive angles
    rotate the image clockwise on screen.

    >>> affine = udp_affine(np.array([50.0, 80.0]), np.array([60.0, 80.0]), 0.0, (192, 256))
    >>> apply_affine(affine, np.array([[20.0, 40.0], [80.0, 120.0]]))  # corners of the box
    array([[  0.,   0.],
           [191., 255.]])
    """
    sx, sy = (input_wh[0] - 1) / scale[0], (input_wh[1] - 1) / scale[1]
    c, s = math.cos(math.radians(rotation_deg)), math.sin(math.radians(rotation_deg))
    x, y = center
    return np.array(
        [
            [c * sx, -s * sx, sx * (-x * c + y * s + scale[0] / 2)],
            [s * sy, c * sy, sy * (-x * s - y * c + scale[1] / 2)],
        ]
    )


def mirror_affine(width: int) -> Array:
    """(2, 3) affine that mirrors an image of `width` pixels: x -> width - 1 - x.

    >>> apply_affine(mirror_affine(100), np.array([[0.0, 7.0], [99.0, 7.0]]))
    array([[99.,  7.],
           [ 0.,  7.]])
    """
    return np.array([[-1.0, 0.0, width - 1.0], [0.0, 1.0, 0.0]])


def compose(second: Array, first: Array) -> Array:
    """(2, 3) affine that applies `first`, then `second`.

    >>> compose(mirror_affine(100), translate(np.array([1.0, 2.0])))  # x -> 99 - (x + 1)
    array([[-1.,  0., 98.],
           [ 0.,  1.,  2.]])
    """
    bottom = np.array([[0.0, 0.0, 1.0]])
    both: Array = np.vstack([second, bottom]) @ np.vstack([first, bottom])
    return both[:2]


def translate(offset_xy: Array) -> Array:
    """(2, 3) affine that moves points by `offset_xy`."""
    return np.array([[1.0, 0.0, offset_xy[0]], [0.0, 1.0, offset_xy[1]]])


def apply_affine(affine: Array, points: Array) -> Array:
    """points (..., 2) transformed by a (2, 3) affine."""
    return points @ affine[:, :2].T + affine[:, 2]


def warp(
    crop: Image, affine: Array, input_wh: tuple[int, int], interpolation: str = "linear"
) -> Image:
    """Warp a crop to the input image (h, w, 3), black outside the crop.

    interpolation: linear | cubic; cubic is linear where the image shrinks, as in Sapiens2. Done
    with four channels, for which OpenCV is faster and gives the same bits.
    """
    flags = cv2.INTER_CUBIC if interpolation == "cubic" and enlarges(affine) else cv2.INTER_LINEAR
    four = cv2.cvtColor(crop, cv2.COLOR_BGR2BGRA)
    four = cv2.warpAffine(four, affine, input_wh, flags=flags)
    return cv2.cvtColor(four, cv2.COLOR_BGRA2BGR).astype(np.uint8, copy=False)


def enlarges(affine: Array) -> bool:
    """Whether an affine (2, 3) makes a pixel at least as large along both axes of the output.

    Source: Sapiens2 pose/src/datasets/transforms/pose_transforms.py.

    >>> enlarges(np.array([[0.0, -1.0, 7.0], [1.5, 0.0, 7.0]]))
    True
    >>> enlarges(np.array([[2.0, 0.0, 7.0], [0.0, 0.9, 7.0]]))
    False
    """
    return bool(np.linalg.norm(affine[:, :2], axis=1).min() >= 1)


def input_to_heatmap_factor(input_wh: tuple[int, int], heatmap_wh: tuple[int, int]) -> Array:
    """(2,) factor from input pixels to heatmap cells: (Wh - 1) / (Wi - 1) per axis.

    >>> input_to_heatmap_factor((101, 201), (26, 51))
    array([0.25, 0.25])
    """
    factor: Array = (np.array(heatmap_wh, dtype=np.float64) - 1) / (np.array(input_wh) - 1)
    return factor


def heatmap_to_image(
    keypoints_heatmap: Array, center: Array, scale: Array, heatmap_wh: tuple[int, int]
) -> Array:
    """Keypoints (..., K, 2) from cells to image pixels; center and scale (..., 2).

    The exact inverse of udp_affine (without rotation) followed by input_to_heatmap_factor. mmpose
    reaches the same image coordinates by way of k * Wi / (Wi - 1) in input space: see
    docs/coordinates.md.
    """
    unit = keypoints_heatmap / (np.array(heatmap_wh, dtype=np.float64) - 1)
    return (unit - 0.5) * scale[..., None, :] + center[..., None, :]


def context_size(
    scale: Array, scale_factor: float, shift_factor: float, rotation_deg: float
) -> Array:
    """(w, h) in image pixels of the region that augmentation of a box of size `scale` can reach.

    That is the largest zoom-out, rotated by the worst angle up to `rotation_deg`, plus the largest
    shift.
    """
    w, h = scale * (1 + scale_factor)
    rotated_w = _largest_span(w, h, rotation_deg)
    rotated_h = _largest_span(h, w, rotation_deg)
    return np.array([rotated_w, rotated_h]) + 2 * shift_factor * scale


def zoom_room(
    input_wh: tuple[int, int], scale_factor: float, shift_factor: float, rotation_deg: float
) -> float:
    """The largest factor by which a box can be enlarged around its centre within context_size."""
    scale = np.array(input_wh, dtype=np.float64)
    return float((context_size(scale, scale_factor, shift_factor, rotation_deg) / scale).min())


def _largest_span(along: float, across: float, rotation_deg: float) -> float:
    """Maximum of along * cos(a) + across * sin(a) over angles a in [0, rotation_deg]."""
    angle = min(math.radians(rotation_deg), math.atan2(across, along))
    return along * math.cos(angle) + across * math.sin(angle)
