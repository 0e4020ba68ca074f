"""Strong augmentations of multi-path consistency: one shared affine, and operations per path.

They follow MultiAugs (arXiv 2402.11566), with sizes in pixels scaled to the input's width. Errors
of its released code that we do not copy: H/W swapped in the cutout boxes, x/y swapped in joint
occlusion, sizes fixed for inputs 192 pixels wide, a rotation that shears non-square crops.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pose.common.params import Ssl
from pose.ssl.randaugment import MAX_MAGNITUDE, randaugment

REFERENCE_WIDTH = 192  # pixels; input width for the paper's sizes
HALF_BOX = (10, 20)  # pixels at REFERENCE_WIDTH; half sides are uniform in 10..19
JITTER = 10.0  # pixels at REFERENCE_WIDTH; standard deviation of a box around its keypoint
MIX_BETA, MIX_SHARE = 0.2, 0.25  # mixup: the other image's share is 0.25 x Beta(0.2, 0.2)
RANDAUGMENT_BOX = 80.0  # pixels at REFERENCE_WIDTH; largest side of RandAugment's cutout


def rigid_theta(rotation_deg: Tensor, scale: Tensor, size_wh: tuple[int, int]) -> Tensor:
    """Affine (B, 2, 3) from output to input, as F.affine_grid takes it, rigid in pixels of size_wh.

    rotation_deg and scale are (B,); scale > 1 zooms out. It is S^-1 (scale R) S with
    S = diag((W-1)/2, (H-1)/2) for align_corners=True, so that the same theta warps image and
    heatmap exactly (UDP).
    """
    angle = torch.deg2rad(rotation_deg)
    c, s = scale * torch.cos(angle), scale * torch.sin(angle)
    aspect = (size_wh[1] - 1) / (size_wh[0] - 1)
    zero = torch.zeros_like(c)
    rows = [torch.stack([c, s * aspect, zero], 1), torch.stack([-s / aspect, c, zero], 1)]
    return torch.stack(rows, 1)


def warp_maps(maps: Tensor, theta: Tensor) -> Tensor:
    """Images or heatmaps (B, C, H, W) warped by theta (B, 2, 3): bilinear, zeros outside.

    In float32 under autocast too: coordinates with 8 bits would be off by a pixel.
    """
    with torch.autocast(maps.device.type, enabled=False):
        grid = F.affine_grid(theta.float(), list(maps.shape), align_corners=True)
        return F.grid_sample(maps.float(), grid, padding_mode="zeros", align_corners=True)


def draw_theta(rng: np.random.Generator, ssl: Ssl, count: int, size_wh: tuple[int, int]) -> Tensor:
    """A random affine per sample (count, 2, 3), see rigid_theta.

    Rotations are normal, clipped at two standard deviations; scales are normal, clipped at one.
    Every sample is scaled; a share of ssl.affine_prob is also rotated (MultiAugs, pose_cons.py).
    """
    is_rotated = rng.random(count) < ssl.affine_prob
    limit, sigma = 2 * ssl.rotate_deg, ssl.scale_factor
    rotation_deg = np.clip(rng.normal(0, ssl.rotate_deg, count), -limit, limit) * is_rotated
    scale = np.clip(rng.normal(1, sigma, count), 1 - sigma, 1 + sigma)
    return rigid_theta(
        torch.tensor(rotation_deg, dtype=torch.float32),
        torch.tensor(scale, dtype=torch.float32),
        size_wh,
    )


def stays_inside(peaks: Tensor, theta: Tensor, size_wh: tuple[int, int]) -> Tensor:
    """(B, K) whether peaks (B, K, 2), in cells of maps size_wh, are inside the maps after theta."""
    half = (peaks.new_tensor(size_wh) - 1) / 2
    matrix, shift = theta[:, :, :2], theta[:, None, :, 2]
    warped = torch.linalg.solve(matrix, (peaks / half - 1 - shift).mT).mT  # inverse of theta
    inside: Tensor = (warped.abs() <= 1 + 1e-5).all(2)
    return inside


def draw_box(
    rng: np.random.Generator, center_xy: NDArray[np.float64], size_wh: tuple[int, int]
) -> tuple[slice, slice]:
    """Rows and columns of a box of random size around center_xy, clipped to the image."""
    half = rng.integers(*HALF_BOX, size=2) * size_wh[0] / REFERENCE_WIDTH
    return clipped_box(center_xy, half, size_wh)


def clipped_box(
    center_xy: NDArray[np.float64], half: NDArray[np.float64], size_wh: tuple[int, int]
) -> tuple[slice, slice]:
    """Rows and columns of the box center_xy +- half (2,: x, y pixels), clipped to the image."""
    first = np.clip(np.rint(center_xy - half), 0, size_wh).astype(int)
    last = np.clip(np.rint(center_xy + half), 0, size_wh).astype(int)
    return slice(first[1], last[1]), slice(first[0], last[0])


class HardViews:
    """Augmentations of a normalised image batch (B, 3, h, w), drawn from rng.

    keypoints (B, K, 2) are the teacher's, in input pixels. usable (B, K) is true where its peak is
    above ssl.min_peak; other keypoints are not cut or covered. Boxes are filled with zeros, the
    mean colour. Every method returns a new tensor.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        ssl: Ssl,
        keypoints: NDArray[np.float64],
        usable: NDArray[np.bool_],
        size_wh: tuple[int, int],
    ) -> None:
        self.rng, self.ssl, self.size_wh = rng, ssl, size_wh
        self.keypoints, self.usable = keypoints, usable

    def augment(self, path: str, images: Tensor) -> Tensor:
        """The images after all operations of one of PATHS."""
        for operation in PATHS[path]:
            images = getattr(self, operation)(images)
        return images

    def joint_cutout(self, images: Tensor) -> Tensor:
        """JC: blank boxes around keypoints."""
        out = images.clone()
        for i in range(len(out)):
            for k in self._choose_keypoints(i, self.ssl.joint_cutout):
                rows, columns = self._keypoint_box(i, k)
                out[i, :, rows, columns] = 0
        return out

    def joint_occlude(self, images: Tensor) -> Tensor:
        """JO: patches around another sample's keypoints cover this sample's keypoints.

        The other keypoint comes to lie on this one, or ssl.occlude_jitter away from it.
        """
        out = images.clone()
        for i in range(len(out)):
            other = int(self.rng.integers(len(out)))
            sources = self._choose_keypoints(other, self.ssl.joint_occlude)
            targets = self._choose_keypoints(i, self.ssl.joint_occlude)
            for source, target in zip(sources, targets, strict=False):
                rows, columns = self._keypoint_box(i, target)
                shift = self.keypoints[other, source] - self.keypoints[i, target]
                out[i, :, rows, columns] = self._patch(
                    images[other],
                    rows,
                    columns,
                    np.rint(shift + self._occlude_offset()).astype(int),
                )
        return out

    def cutout(self, images: Tensor) -> Tensor:
        """CO: blank boxes at random places."""
        out = images.clone()
        for i in range(len(out)):
            for _ in range(self.ssl.cutout):
                rows, columns = self._random_box()
                out[i, :, rows, columns] = 0
        return out

    def cutmix(self, images: Tensor) -> Tensor:
        """CM: boxes at random places show another sample at the same place."""
        out = images.clone()
        partner = self.rng.permutation(len(out))
        for i in range(len(out)):
            for _ in range(self.ssl.cutmix):
                rows, columns = self._random_box()
                out[i, :, rows, columns] = images[partner[i], :, rows, columns]
        return out

    def mixup(self, images: Tensor) -> Tensor:
        """MU: a blend with another sample; the target is still that of the first one."""
        share = MIX_SHARE * self.rng.beta(MIX_BETA, MIX_BETA)
        partner = self.rng.permutation(len(images))
        return (1 - share) * images + share * images[torch.from_numpy(partner).to(images.device)]

    def randaugment(self, images: Tensor) -> Tensor:
        """RA: random changes of colour and sharpness, then one blank box at a random place."""
        ssl = self.ssl
        out = torch.stack(
            [
                randaugment(self.rng, image, ssl.randaugment_ops, ssl.randaugment_magnitude)
                for image in images
            ]
        )
        side = RANDAUGMENT_BOX * ssl.randaugment_magnitude / MAX_MAGNITUDE
        half = self.rng.uniform(0, side / 2, len(out)) * self.size_wh[0] / REFERENCE_WIDTH
        for i in range(len(out)):
            center = self.rng.random(2) * self.size_wh
            rows, columns = clipped_box(center, half[[i, i]], self.size_wh)
            out[i, :, rows, columns] = 0
        return out

    def _choose_keypoints(self, i: int, count: int) -> NDArray[np.intp]:
        """Indices of at most `count` different usable keypoints of sample i."""
        return self.rng.permutation(np.flatnonzero(self.usable[i]))[:count]

    def _keypoint_box(self, i: int, k: int) -> tuple[slice, slice]:
        jitter = self.rng.normal(0, JITTER * self.size_wh[0] / REFERENCE_WIDTH, 2)
        return draw_box(self.rng, self.keypoints[i, k] + jitter, self.size_wh)

    def _occlude_offset(self) -> NDArray[np.float64]:
        """(2,) pixels by which joint occlusion misses; without jitter nothing is drawn."""
        spread = self.ssl.occlude_jitter * self.size_wh[0] / REFERENCE_WIDTH
        return self.rng.normal(0, spread, 2) if spread else np.zeros(2)

    def _random_box(self) -> tuple[slice, slice]:
        return draw_box(self.rng, self.rng.random(2) * self.size_wh, self.size_wh)

    def _patch(
        self, image: Tensor, rows: slice, columns: slice, shift_xy: NDArray[np.int_]
    ) -> Tensor:
        """Pixels of `image` in the box shifted by shift_xy; edge pixels are repeated outside."""
        y = torch.arange(rows.start, rows.stop) + int(shift_xy[1])
        x = torch.arange(columns.start, columns.stop) + int(shift_xy[0])
        y, x = y.clamp(0, self.size_wh[1] - 1), x.clamp(0, self.size_wh[0] - 1)
        return image[:, y[:, None].to(image.device), x[None, :].to(image.device)]


PATHS = {  # name in ssl.paths -> methods of HardViews, in order
    "jc": ("joint_cutout",),
    "jo": ("joint_occlude",),
    "co": ("cutout",),
    "cm": ("cutmix",),
    "mu": ("mixup",),
    "randaugment": ("randaugment",),
    "joco": ("joint_occlude", "cutout"),
    "jccm": ("joint_cutout", "cutmix"),
}
