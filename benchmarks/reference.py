"""A direct implementation of training samples and of decoding, one person at a time.

The order and arithmetic of the official pipeline (mmpose's GetBBoxCenterScale, RandomFlip,
RandomHalfBody, RandomBBoxTransform, TopdownAffine, PhotometricDistortion, albumentations,
GenerateTarget, PackPoseInputs, then the model's normalisation) on whole images. data.py compares
our speed with it; no stage uses it.
"""

from __future__ import annotations

import random

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import truncnorm
from torch import Tensor

from pose.coco.annotations import Person
from pose.codecs import geometry
from pose.common.skeleton import COCO_17

Array = NDArray[np.float64]
MEAN, STD = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])
HOLE = {"hole_height_range": (0.2, 0.4), "hole_width_range": (0.2, 0.4)}
OCCLUSION = A.Compose(
    [A.Blur(p=0.1), A.MedianBlur(p=0.1), A.CoarseDropout(num_holes_range=(1, 1), **HOLE, p=1.0)]
)


def sample(
    jpeg: NDArray[np.uint8], person: Person, input_wh: tuple[int, int], sigma: float
) -> tuple[Tensor, NDArray[np.float32], NDArray[np.float32]]:
    """Normalised input (3, h, w), heatmaps (K, H, W) and weights (K,) of one person."""
    image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    image, bbox, keypoints = _flip(
        image, np.array(person.bbox_xywh), person.keypoints.astype(float)
    )
    center, scale = _half_body(bbox, keypoints)
    low, high = truncnorm(-1, 1), (0.16, 0.5, 80.0)
    if random.random() < 0.3:
        center = center + low.rvs(size=2) * high[0] * scale
    scale = scale * (1 + low.rvs() * high[1])
    turn = low.rvs() * high[2] if random.random() < 0.6 else 0.0
    affine = geometry.udp_affine(center, geometry.fix_aspect(scale, input_wh), turn, input_wh)
    image = cv2.warpAffine(image, affine, input_wh, flags=cv2.INTER_LINEAR)
    points = geometry.apply_affine(affine, keypoints[:, :2])
    image = OCCLUSION(image=_distort(image))["image"]
    heatmaps, weights = encode(points, np.minimum(keypoints[:, 2], 1), input_wh, sigma)
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    mean, std = (torch.from_numpy(values)[:, None, None] for values in (MEAN, STD))
    return (tensor[[2, 1, 0]].float() - mean) / std, heatmaps, weights


def _flip(image, bbox: Array, keypoints: Array):
    if random.random() >= 0.5:
        return image, bbox, keypoints
    width = image.shape[1]
    keypoints = keypoints[list(COCO_17.flip_indices)]
    keypoints[:, 0] = width - 1 - keypoints[:, 0]
    x, y, w, h = bbox
    return cv2.flip(image, 1), np.array([width - 1 - x - w, y, w, h]), keypoints


def _half_body(bbox: Array, keypoints: Array) -> tuple[Array, Array]:
    x, y, w, h = bbox
    seen = keypoints[:, 2] > 0
    upper, lower = (
        [k for k in group if seen[k]] for group in (COCO_17.upper_body, COCO_17.lower_body)
    )
    if seen.sum() >= 9 and random.random() < 0.3 and len(upper) >= 2 and len(lower) >= 3:
        points = keypoints[upper if random.random() < 0.7 else lower, :2]
        return points.mean(0), np.maximum(np.ptp(points, axis=0), 1) * 1.5
    return np.array([x + w / 2, y + h / 2]), np.array([w, h]) * 1.25


def _scaled(image, factor: float, offset: float = 0.0):
    return np.clip(image.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)


def _distort(image):
    if random.randint(0, 1):
        image = _scaled(image, 1.0, random.uniform(-32, 32))
    twice = random.randint(0, 1) and random.randint(0, 1)
    contrast = random.uniform(0.5, 1.5)
    if twice:
        image = _scaled(image, contrast)
    mode = random.randint(0, 3)
    if mode:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        if mode in (1, 3):
            hsv[..., 1] = _scaled(hsv[..., 1], random.uniform(0.5, 1.5))
        if mode in (2, 3):
            hsv[..., 0] = hsv[..., 0].astype(int) + random.randint(-18, 17)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if twice:
        image = _scaled(image, contrast)
    return image[..., random.sample(range(3), 3)] if random.randint(0, 1) else image


def encode(
    points: Array, visible: Array, input_wh: tuple[int, int], sigma: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Heatmaps (K, H, W) and weights (K,), one keypoint at a time."""
    width, height = input_wh[0] // 4, input_wh[1] // 4
    maps, weights = np.zeros((len(points), height, width), np.float32), visible.astype(np.float32)
    radius = int(3 * sigma)
    cells = np.arange(2 * radius + 1, dtype=np.float32)
    step = (np.array(input_wh) - 1) / (np.array([width, height]) - 1)
    for k, mu in enumerate(points / step):
        near = (mu + 0.5).astype(int)
        first, last = near - radius, near + radius + 1
        if visible[k] < 0.5 or (first >= (width, height)).any() or (last < 0).any():
            weights[k] = 0
            continue
        x0, y0 = radius + mu - near
        patch = np.exp(-((cells - x0) ** 2 + (cells[:, None] - y0) ** 2) / (2 * sigma**2))
        (x1, y1), (x2, y2) = np.maximum(first, 0), np.minimum(last, (width, height))
        (u1, v1), (u2, v2) = (x1, y1) - first, (x2, y2) - first
        maps[k, y1:y2, x1:x2] = patch[v1:v2, u1:u2]
    return maps, weights


def decode(maps: NDArray[np.float32], kernel: int = 11) -> Array:
    """DARK-UDP peaks (K, 2) of (K, H, W) maps, in cells, one map at a time."""
    peaks = []
    half = (kernel - 1) // 2
    for plane in maps:
        y, x = np.unravel_index(plane.argmax(), plane.shape)
        blurred = cv2.GaussianBlur(np.pad(plane, half), (kernel, kernel), 0)[half:-half, half:-half]
        blurred = blurred * (plane.max() / blurred.max())
        log = np.pad(np.log(np.clip(blurred, 1e-3, 50)), 1, mode="edge")
        c = log[y : y + 3, x : x + 3].astype(float)
        gradient = np.array([c[1, 2] - c[1, 0], c[2, 1] - c[0, 1]]) / 2
        dxy = (c[2, 2] - c[1, 2] - c[2, 1] + 2 * c[1, 1] - c[1, 0] - c[0, 1] + c[0, 0]) / 2
        dxx, dyy = c[1, 2] - 2 * c[1, 1] + c[1, 0], c[2, 1] - 2 * c[1, 1] + c[0, 1]
        hessian = np.array([[dxx, dxy], [dxy, dyy]]) + np.finfo(np.float32).eps * np.eye(2)
        peaks.append(np.array([x, y]) - np.linalg.inv(hessian) @ gradient)
    return np.stack(peaks)
