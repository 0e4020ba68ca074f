"""Multi-path consistency on unlabelled people (MultiAugs, arXiv 2402.11566).

The teacher predicts heatmaps of the weakly augmented image; they are the target (targets.py) of K
strongly augmented views of it, one per path (hard_views.py). All paths share one extra rigid
affine, by which the teacher's heatmaps are warped as well. The teacher is the student itself, the
EMA of its weights or, with two networks, the other network. Each step also has a batch of labelled
people: without them every known consistency loss collapses to confident but wrong heatmaps.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pose import distributed
from pose.codecs.gaussian import argmax_decode
from pose.codecs.udp import UdpCodec
from pose.common.params import Ssl
from pose.engine import parallel
from pose.engine.fit import ONE_BATCH, Gradients, Losses, supervised_loss, to_device
from pose.models.build import autocast
from pose.models.pose_model import normalise
from pose.ssl.hard_views import HardViews, draw_theta, stays_inside, warp_maps
from pose.ssl.students import Teacher, without_dropout
from pose.ssl.targets import Target, ensemble_target, path_loss, teacher_target

Batch = tuple[list[Tensor], list[Tensor]]  # labelled and unlabelled, as the loaders return them


@dataclass(frozen=True)
class UnlabelledBatch:
    """An unlabelled batch: the teacher's heatmaps, and what its strong views are made from.

    B is this process's batch size, all images that of all processes.
    """

    teacher_maps: Tensor  # (B, K, H, W), of the weakly augmented images
    warped_maps: Tensor  # (B, K, H, W), teacher_maps after the shared affine
    peaks: Tensor  # (B, K, 2), cells of teacher_maps
    usable: Tensor  # (B, K), whether the peak is above ssl.min_peak
    theta: Tensor  # (B, 2, 3), the shared affine
    all_images: Tensor  # normalised images of all processes
    views: HardViews  # of all images
    local: slice  # this process's rows of all images


@dataclass(frozen=True)
class Consistency:
    """Forward and backward of a training step, on a labelled and an unlabelled batch.

    students come from parallel.wrap_distributed; teachers[i] makes the target of students[i].
    weight_at(step) is the weight of the unlabelled loss. Strong views paste patches of other people
    in the batch, so every process draws those of all processes and uses its own rows. Each path has
    its own backward: the target is detached, so the gradients add up to that of the sum, and memory
    does not grow with the number of paths.
    """

    students: list[nn.Module]
    teachers: list[Teacher]
    ssl: Ssl
    codec: UdpCodec
    device: torch.device
    amp: str
    seed: tuple[int, ...]
    weight_at: Callable[[int], float]
    gradients: Gradients = ONE_BATCH

    def __call__(self, batch: Batch, step: int) -> Losses:
        """Add the gradients of a step; returns losses and peak values, means over the students."""
        labelled, unlabelled = (to_device(part, self.device) for part in batch)
        rows = [
            self._student_step(i, labelled, unlabelled, step) for i in range(len(self.students))
        ]
        return {name: torch.stack([row[name] for row in rows]).mean() for name in rows[0]}

    def _student_step(
        self, i: int, labelled: tuple[Tensor, Tensor], unlabelled: tuple[Tensor, Tensor], step: int
    ) -> Losses:
        student = self.students[i]
        supervised = supervised_loss(
            student, self.codec, self.amp, self.gradients, *labelled, last=False
        )
        batch = self.draw_views(i, *unlabelled, step)
        target = self.target(i, batch)
        logged = {"loss": supervised, "loss_u": torch.zeros((), device=self.device)}
        logged["mask"] = (target.weights > 0).float().mean()
        logged["confidence"] = target.confidence.mean()
        logged["peak"] = batch.teacher_maps.amax((2, 3)).mean()
        for k, path in enumerate(self.ssl.paths):
            last = k + 1 == len(self.ssl.paths)
            loss, peak = self._path_step(student, path, batch, target, self.weight_at(step), last)
            logged["loss_u"] = logged["loss_u"] + loss
            logged[f"peak_{path}"] = peak  # the last one, if a path is listed twice
        return logged

    def draw_views(self, i: int, images_u8: Tensor, targets: Tensor, step: int) -> UnlabelledBatch:
        """The unlabelled batch of students[i]; random draws depend only on seed, step and i."""
        teacher_maps = self.teachers[i](images_u8, targets)
        peaks, peak_values = argmax_decode(teacher_maps)
        usable = peak_values > self.ssl.min_peak
        all_images = normalise(distributed.all_gather_rows(images_u8))
        size_wh = (all_images.shape[3], all_images.shape[2])
        keypoints = _to_input(distributed.all_gather_rows(peaks), size_wh, self.codec.heatmap_size)
        all_usable = distributed.all_gather_rows(usable).cpu().numpy()
        rng = np.random.default_rng([*self.seed, step, i])
        views = HardViews(rng, self.ssl, keypoints, all_usable, size_wh)
        count, rank = len(images_u8), distributed.rank()
        local = slice(count * rank, count * (rank + 1))
        theta = draw_theta(rng, self.ssl, len(all_images), size_wh).to(self.device)[local]
        return UnlabelledBatch(
            teacher_maps=teacher_maps,
            warped_maps=warp_maps(teacher_maps, theta),
            peaks=peaks,
            usable=usable,
            theta=theta,
            all_images=all_images,
            views=views,
            local=local,
        )

    def target(self, i: int, batch: UnlabelledBatch) -> Target:
        """The target of students[i]; to be called before batch.views makes any view."""
        if self.ssl.loss == "multiaugs":
            return teacher_target(batch.warped_maps, batch.usable.float())
        inside = stays_inside(batch.peaks, batch.theta, self.codec.heatmap_size)
        mean = self._mean_path_maps(self.students[i], batch)
        return ensemble_target(batch.warped_maps, mean, inside, self.ssl, self.codec.sigma)

    @torch.no_grad()
    def _mean_path_maps(self, student: nn.Module, batch: UnlabelledBatch) -> Tensor:
        """Mean of the student's heatmaps (B, K, H, W) over the paths, from a separate forward.

        Running the forward twice needs less memory than keeping the graph of every path.
        """
        views, total = deepcopy(batch.views), torch.zeros_like(batch.warped_maps)
        for path in self.ssl.paths:
            images = views.augment(path, batch.all_images)[batch.local]
            total += self.student_maps(student, images, batch)
        return total / len(self.ssl.paths)

    @torch.no_grad()
    def student_maps(self, student: nn.Module, images: Tensor, batch: UnlabelledBatch) -> Tensor:
        """The student's heatmaps (B, K, H, W), float32, of a path's images after batch.theta."""
        parts = []
        with without_dropout(student), autocast(self.device, self.amp):
            for micro_batch, theta in self.gradients.split(images, batch.theta):
                parts.append(self.codec.heatmaps(student(warp_maps(micro_batch, theta))).float())
        return torch.cat(parts)

    def _path_step(
        self,
        student: nn.Module,
        path: str,
        batch: UnlabelledBatch,
        target: Target,
        weight: float,
        last: bool,
    ) -> tuple[Tensor, Tensor]:
        """Add the gradient of a path; returns its detached loss and mean peak value."""
        augmented = batch.views.augment(path, batch.all_images)[batch.local]
        losses: list[Tensor] = []
        peaks: list[Tensor] = []
        for images, theta, maps, weights, confidence in self.gradients.split(
            augmented, batch.theta, target.maps, target.weights, target.confidence
        ):
            parallel.sync_gradients_(student, last and len(losses) + 1 == self.gradients.accumulate)
            with autocast(self.device, self.amp):
                heatmaps = self.codec.heatmaps(student(warp_maps(images, theta)))
            loss = path_loss(heatmaps, Target(maps, weights, confidence), self.ssl)
            self.gradients.backward(weight * loss)
            losses.append(self.gradients.loss_weight * loss.detach())
            peaks.append(heatmaps.detach().float().amax((2, 3)).mean())
        return torch.stack(losses).mean(), torch.stack(peaks).mean()


def _to_input(
    peaks: Tensor, size_wh: tuple[int, int], heatmap_wh: tuple[int, int]
) -> NDArray[np.float64]:
    """Heatmap cells (B, K, 2) as input pixels, by UDP's factor (w - 1) / (W - 1)."""
    factor = (np.array(size_wh) - 1) / (np.array(heatmap_wh) - 1)
    points: NDArray[np.float64] = peaks.cpu().numpy().astype(np.float64) * factor
    return points
