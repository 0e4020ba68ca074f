"""The hard views of multi-path consistency: one shared rigid affine, and each path's occlusions.

Laws of MultiAugs (arXiv 2402.11566), every size in pixels scaled with the input's width. Slips of
its released code that we do not follow: H/W swapped in the cut-out boxes, x/y swapped in joint
occlusion, sizes fixed for 192-pixel inputs, a rotation that shears non-square crops.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pose.common.params import Ssl
from pose.ssl.randaugment import randaugment

REFERENCE_WIDTH = 192  # pixels, input width of the paper's sizes
HALF_BOX = (10, 20)  # pixels at that width: half sides ~ U{10..19}
JITTER = 10.0  # pixels at that width, standard deviation of a box around its joint
MIX_BETA, MIX_SHARE = 0.2, 0.25  # mixup: of the other image MIX_SHARE x Beta(0.2, 0.2)
ABS_CUTOUT = 80.0  # pixels at that width, side of RandAugment's own box at full magnitude
FULL_MAGNITUDE = 30  # RandAugment's scale


def rigid_theta(rotation_deg: Tensor, scale: Tensor, size_wh: tuple[int, int]) -> Tensor:
    """(B, 2, 3) output -> input affine in normalised coordinates, rigid in pixels of size_wh.

    S^-1 (scale R) S with S = diag((W-1)/2, (H-1)/2), for grids with align_corners=True; the same
    theta then serves image and heatmap exactly (UDP). scale > 1 zooms out.
    """
    angle = torch.deg2rad(rotation_deg)
    c, s = scale * torch.cos(angle), scale * torch.sin(angle)
    aspect = (size_wh[1] - 1) / (size_wh[0] - 1)
    zero = torch.zeros_like(c)
    rows = [torch.stack([c, s * aspect, zero], 1), torch.stack([-s / aspect, c, zero], 1)]
    return torch.stack(rows, 1)


def warp_maps(maps: Tensor, theta: Tensor) -> Tensor:
    """maps (B, C, H, W) resampled through theta (B, 2, 3): bilinear, zeros outside.

    In float32 under autocast too: coordinates of 8 bits would move a picture by a pixel.
    """
    with torch.autocast(maps.device.type, enabled=False):
        grid = F.affine_grid(theta.float(), list(maps.shape), align_corners=True)
        return F.grid_sample(maps.float(), grid, padding_mode="zeros", align_corners=True)


def draw_theta(rng: np.random.Generator, ssl: Ssl, count: int, size_wh: tuple[int, int]) -> Tensor:
    """One hard affine a sample: normals, turns clipped at two deviations and zooms at one.

    Each is zoomed; affine_prob of them are turned (MultiAugs, pose_cons.py).
    """
    turned = rng.random(count) < ssl.affine_prob
    turn = np.clip(rng.normal(0, ssl.rotate_deg, count), -2 * ssl.rotate_deg, 2 * ssl.rotate_deg)
    reach = ssl.scale_factor
    zoom = np.clip(rng.normal(1, reach, count), 1 - reach, 1 + reach)
    rotation, scale = (torch.tensor(one, dtype=torch.float32) for one in (turn * turned, zoom))
    return rigid_theta(rotation, scale, size_wh)


def stays_inside(peaks: Tensor, theta: Tensor, size_wh: tuple[int, int]) -> Tensor:
    """(B, K) whether what lies at peaks (B, K, 2), cells of maps size_wh, is in the warped maps."""
    half = (peaks.new_tensor(size_wh) - 1) / 2
    turn, shift = theta[:, :, :2], theta[:, None, :, 2]
    landed = torch.linalg.solve(turn, (peaks / half - 1 - shift).mT).mT  # theta goes backwards
    return (landed.abs() <= 1 + 1e-5).all(2)


def draw_box(
    rng: np.random.Generator, center_xy: NDArray[np.float64], size_wh: tuple[int, int]
) -> tuple[slice, slice]:
    """Rows and columns of a random box around center_xy, clipped to the image."""
    half = rng.integers(*HALF_BOX, size=2) * size_wh[0] / REFERENCE_WIDTH
    return clipped_box(center_xy, half, size_wh)


def clipped_box(
    center_xy: NDArray[np.float64], half: NDArray[np.float64], size_wh: tuple[int, int]
) -> tuple[slice, slice]:
    """Rows and columns within `half` (2,) pixels of center_xy, in the image."""
    first = np.clip(np.rint(center_xy - half), 0, size_wh).astype(int)
    last = np.clip(np.rint(center_xy + half), 0, size_wh).astype(int)
    return slice(first[1], last[1]), slice(first[0], last[0])


class HardViews:
    """The paths' image augmentations on a normalised batch (B, 3, h, w), joints (B, K, 2).

    usable (B, K) tells which joints the teacher is sure of; only those are cut. Zeros are the
    mean colour. Every method returns a new tensor.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        ssl: Ssl,
        joints_input: NDArray[np.float64],
        usable: NDArray[np.bool_],
        size_wh: tuple[int, int],
    ) -> None:
        self.rng, self.ssl, self.size_wh = rng, ssl, size_wh
        self.joints, self.usable = joints_input, usable

    def along(self, path: str, images: Tensor) -> Tensor:
        """The view of one of PATHS."""
        for step in PATHS[path]:
            images = getattr(self, step)(images)
        return images

    def joint_cutout(self, images: Tensor) -> Tensor:
        """JC: boxes around joints become blank."""
        out = images.clone()
        for i in range(len(out)):
            for joint in self._choose(i, self.ssl.joint_cutout):
                rows, columns = self._joint_box(i, joint)
                out[i, :, rows, columns] = 0
        return out

    def joint_occlude(self, images: Tensor) -> Tensor:
        """JO: patches around another sample's joints cover this sample's joints."""
        out = images.clone()
        for i in range(len(out)):
            other = int(self.rng.integers(len(out)))
            sources = self._choose(other, self.ssl.joint_occlude)
            targets = self._choose(i, self.ssl.joint_occlude)
            for source, target in zip(sources, targets, strict=False):
                rows, columns = self._joint_box(i, target)
                shift = np.rint(self.joints[other, source] - self.joints[i, target]).astype(int)
                out[i, :, rows, columns] = self._patch(images[other], rows, columns, shift)
        return out

    def cutout(self, images: Tensor) -> Tensor:
        """CO: boxes anywhere become blank."""
        out = images.clone()
        for i in range(len(out)):
            for _ in range(self.ssl.cutout):
                rows, columns = self._any_box()
                out[i, :, rows, columns] = 0
        return out

    def cutmix(self, images: Tensor) -> Tensor:
        """CM: boxes anywhere show another sample at the same place."""
        out = images.clone()
        partner = self.rng.permutation(len(out))
        for i in range(len(out)):
            for _ in range(self.ssl.cutmix):
                rows, columns = self._any_box()
                out[i, :, rows, columns] = images[partner[i], :, rows, columns]
        return out

    def mixup(self, images: Tensor) -> Tensor:
        """MU: another sample shines through everywhere; the target stays the first one's."""
        share = MIX_SHARE * self.rng.beta(MIX_BETA, MIX_BETA)
        partner = self.rng.permutation(len(images))
        return (1 - share) * images + share * images[torch.from_numpy(partner).to(images.device)]

    def randaugment(self, images: Tensor) -> Tensor:
        """RA: colours and sharpness as drawn, then one blank box anywhere."""
        ssl = self.ssl
        out = torch.stack(
            [
                randaugment(self.rng, image, ssl.randaugment_ops, ssl.randaugment_magnitude)
                for image in images
            ]
        )
        side = ABS_CUTOUT * ssl.randaugment_magnitude / FULL_MAGNITUDE
        half = self.rng.uniform(0, side / 2, len(out)) * self.size_wh[0] / REFERENCE_WIDTH
        for i in range(len(out)):
            center = self.rng.random(2) * self.size_wh
            rows, columns = clipped_box(center, half[[i, i]], self.size_wh)
            out[i, :, rows, columns] = 0
        return out

    def _choose(self, i: int, count: int) -> NDArray[np.intp]:
        """Up to `count` different usable joints of sample i."""
        able = np.flatnonzero(self.usable[i])
        return self.rng.permutation(able)[:count]

    def _joint_box(self, i: int, joint: int) -> tuple[slice, slice]:
        jitter = self.rng.normal(0, JITTER * self.size_wh[0] / REFERENCE_WIDTH, 2)
        return draw_box(self.rng, self.joints[i, joint] + jitter, self.size_wh)

    def _any_box(self) -> tuple[slice, slice]:
        return draw_box(self.rng, self.rng.random(2) * self.size_wh, self.size_wh)

    def _patch(
        self, image: Tensor, rows: slice, columns: slice, shift_xy: NDArray[np.int_]
    ) -> Tensor:
        """The box moved by shift_xy on `image`, edge pixels repeated outside it."""
        y = torch.arange(rows.start, rows.stop) + int(shift_xy[1])
        x = torch.arange(columns.start, columns.stop) + int(shift_xy[0])
        y, x = y.clamp(0, self.size_wh[1] - 1), x.clamp(0, self.size_wh[0] - 1)
        return image[:, y[:, None].to(image.device), x[None, :].to(image.device)]


PATHS = {  # name in ssl.paths -> methods of HardViews, in turn
    "jc": ("joint_cutout",),
    "jo": ("joint_occlude",),
    "co": ("cutout",),
    "cm": ("cutmix",),
    "mu": ("mixup",),
    "randaugment": ("randaugment",),
    "joco": ("joint_occlude", "cutout"),
    "jccm": ("joint_cutout", "cutmix"),
}
