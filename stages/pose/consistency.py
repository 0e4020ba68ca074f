"""Multi-path consistency on unlabelled persons (MultiAugs, arXiv 2402.11566, single network).

The network's own heatmaps of the easy view, detached, are the target of K hard paths. All paths
share one extra rigid affine, through which the target is warped forward. Labelled persons are in
every step: without them each known consistency loss drifts to confident nonsense.

Released-code slips that we do not follow: H/W swapped in the cut-out boxes, x/y swapped in joint
occlusion, sizes fixed for 192-pixel inputs, a rotation that shears non-square crops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pose import distributed, parallel
from pose.codec import UdpCodec
from pose.engine import AT_ONCE, Gradients, Losses, StepLoss, autocast, labelled_loss, moved
from pose.gaussian import argmax_decode
from pose.inference import predict_maps
from pose.losses import keypoint_mse
from pose.model import normalise

REFERENCE_WIDTH = 192  # pixels, input width of the paper's sizes
HALF_BOX = (10, 20)  # pixels at that width: half sides ~ U{10..19}
JITTER = 10.0  # pixels at that width, standard deviation of a box around its joint


@dataclass(frozen=True)
class PathSpec:
    """The hard views; the names and units of params.yaml's `ssl`."""

    rotate_deg: float
    scale_factor: float
    affine_prob: float
    joint_cutout: int
    joint_occlude: int
    cutout: int
    cutmix: int
    min_peak: float


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
    """maps (B, C, H, W) resampled through theta (B, 2, 3): bilinear, zeros outside."""
    grid = F.affine_grid(theta, list(maps.shape), align_corners=True)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def draw_theta(
    rng: np.random.Generator, spec: PathSpec, count: int, size_wh: tuple[int, int]
) -> Tensor:
    """One hard affine a sample; normals, clipped at twice rotate_deg and to zooms of 0.5 to 1.5."""
    applied = rng.random(count) < spec.affine_prob
    turn = np.clip(rng.normal(0, spec.rotate_deg, count), -2 * spec.rotate_deg, 2 * spec.rotate_deg)
    zoom = np.clip(rng.normal(1, spec.scale_factor, count), 0.5, 1.5)
    rotation = torch.tensor(turn * applied, dtype=torch.float32)
    scale = torch.tensor(np.where(applied, zoom, 1.0), dtype=torch.float32)
    return rigid_theta(rotation, scale, size_wh)


def draw_box(
    rng: np.random.Generator, center_xy: NDArray[np.float64], size_wh: tuple[int, int]
) -> tuple[slice, slice]:
    """Rows and columns of a random box around center_xy, clipped to the image."""
    unit = size_wh[0] / REFERENCE_WIDTH
    half = rng.integers(*HALF_BOX, size=2) * unit
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
        spec: PathSpec,
        joints_input: NDArray[np.float64],
        usable: NDArray[np.bool_],
        size_wh: tuple[int, int],
    ) -> None:
        self.rng, self.spec, self.size_wh = rng, spec, size_wh
        self.joints, self.usable = joints_input, usable

    def joco(self, images: Tensor) -> Tensor:
        """Joint cut-occlude, then cut-out."""
        return self.cutout(self.joint_occlude(images))

    def jccm(self, images: Tensor) -> Tensor:
        """Joint cut-out, then cut-mix."""
        return self.cutmix(self.joint_cutout(images))

    def joint_cutout(self, images: Tensor) -> Tensor:
        """JC: boxes around joints become blank."""
        out = images.clone()
        for i in range(len(out)):
            for joint in self._choose(i, self.spec.joint_cutout):
                rows, columns = self._joint_box(i, joint)
                out[i, :, rows, columns] = 0
        return out

    def joint_occlude(self, images: Tensor) -> Tensor:
        """JO: patches around another sample's joints cover this sample's joints."""
        out = images.clone()
        for i in range(len(out)):
            other = int(self.rng.integers(len(out)))
            sources = self._choose(other, self.spec.joint_occlude)
            targets = self._choose(i, self.spec.joint_occlude)
            for source, target in zip(sources, targets, strict=False):
                rows, columns = self._joint_box(i, target)
                shift = np.rint(self.joints[other, source] - self.joints[i, target]).astype(int)
                out[i, :, rows, columns] = self._patch(images[other], rows, columns, shift)
        return out

    def cutout(self, images: Tensor) -> Tensor:
        """CO: boxes anywhere become blank."""
        out = images.clone()
        for i in range(len(out)):
            for _ in range(self.spec.cutout):
                rows, columns = self._any_box()
                out[i, :, rows, columns] = 0
        return out

    def cutmix(self, images: Tensor) -> Tensor:
        """CM: boxes anywhere show another sample at the same place."""
        out = images.clone()
        partner = self.rng.permutation(len(out))
        for i in range(len(out)):
            for _ in range(self.spec.cutmix):
                rows, columns = self._any_box()
                out[i, :, rows, columns] = images[partner[i], :, rows, columns]
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


def consistency_step(
    model: nn.Module,
    spec: PathSpec,
    codec: UdpCodec,
    device: torch.device,
    amp: str,
    seed: tuple[int, ...],
    weight_at: Any,
    gradients: Gradients = AT_ONCE,
) -> StepLoss:
    """Labelled loss plus the sum over paths of MSE to the warped teacher maps.

    Batches are ((images, targets) labelled, (images, _) unlabelled). Backward runs path by path:
    the target is fixed, so the gradient is that of the sum, and memory does not grow with paths.
    weight_at(step) is the weight of the unlabelled loss. Every process draws the hard views of the
    whole step, in which persons cover one another, and learns from its own share of them.
    """

    def run(batch: Any, step: int) -> Losses:
        (images, targets), (others, _) = (moved(part, device) for part in batch)
        supervised = labelled_loss(model, codec, amp, gradients, images, targets, last=False)
        rng = np.random.default_rng([*seed, step])
        unsupervised, mask, peak = _path_losses(others, rng, weight_at(step))
        return {"loss": supervised, "loss_u": unsupervised, "mask": mask, "peak": peak}

    def _path_losses(
        images_u8: Tensor, rng: np.random.Generator, weight: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        teacher = _teacher_maps(images_u8)
        peaks, heights = argmax_decode(teacher)
        usable = heights > spec.min_peak
        everyone = normalise(distributed.gather_rows(images_u8))
        size_wh = (everyone.shape[3], everyone.shape[2])
        joints = _to_input(distributed.gather_rows(peaks), size_wh, codec.heatmap_size)
        all_usable = distributed.gather_rows(usable).cpu().numpy()
        views = HardViews(rng, spec, joints, all_usable, size_wh)
        theta = draw_theta(rng, spec, len(everyone), size_wh).to(device)
        own = slice(len(teacher) * distributed.rank(), len(teacher) * (distributed.rank() + 1))
        expected = warp_maps(teacher, theta[own])
        total = torch.zeros((), device=device)
        for path, last in ((views.joco, False), (views.jccm, True)):
            hard = path(everyone)[own]
            total += _path_loss(hard, theta[own], expected, usable.float(), weight, last)
        return total, usable.float().mean(), heights.mean()

    def _teacher_maps(images_u8: Tensor) -> Tensor:
        with torch.no_grad(), autocast(device, amp):
            parts = [
                codec.heights(predict_maps(model, codec, normalise(some), flip=True))
                for (some,) in gradients.split(images_u8)
            ]
        return torch.cat(parts)

    def _path_loss(
        hard: Tensor, theta: Tensor, expected: Tensor, weights: Tensor, weight: float, last: bool
    ) -> Tensor:
        found: list[Tensor] = []
        for images, turn, maps, used in gradients.split(hard, theta, expected, weights):
            parallel.exchange_(model, last and len(found) + 1 == gradients.accumulate)
            with autocast(device, amp):
                heatmaps = codec.heights(model(warp_maps(images, turn)))
            loss = keypoint_mse(heatmaps, maps, used)
            gradients.add(weight * loss)
            found.append(loss.detach())
        return torch.stack(found).mean()

    return run


def _to_input(
    peaks: Tensor, size_wh: tuple[int, int], heatmap_wh: tuple[int, int]
) -> NDArray[np.float64]:
    """Peak cells as input pixels, by the UDP rule."""
    factor = (np.array(size_wh) - 1) / (np.array(heatmap_wh) - 1)
    return peaks.cpu().numpy().astype(np.float64) * factor
