"""Multi-path consistency on unlabelled persons (MultiAugs, arXiv 2402.11566).

The easy view's heatmaps, detached, make the target of K hard paths (pseudo.py, views.py). All paths
share one extra rigid affine, through which the easy maps are warped forward. The teacher is the
student itself, an average of its past weights, or, of two networks, the other one. Labelled persons
are in every step: without them each known consistency loss drifts to confident nonsense.
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
from pose.models.vit import normalise
from pose.ssl.hard_views import HardViews, draw_theta, stays_inside, warp_maps
from pose.ssl.students import Teacher, without_drop_path
from pose.ssl.targets import Target, easy_target, ensemble_target, path_loss

Batch = tuple[list[Tensor], list[Tensor]]  # a labelled and an unlabelled one, as loaders give them


@dataclass(frozen=True)
class Scene:
    """The hard views of a batch, still to be made, and what they are held to."""

    easy: Tensor  # teacher's maps of the easy view (B, K, H, W)
    warped: Tensor  # the same in the paths' frame
    peaks: Tensor  # cells (B, K, 2) of easy
    usable: Tensor  # (B, K)
    theta: Tensor  # (B, 2, 3)
    everyone: Tensor  # normalised images of all processes
    views: HardViews
    own: slice  # this process's rows of everyone


@dataclass(frozen=True)
class Consistency:
    """A step's losses. Every process draws the hard views of the whole step, in which persons cover
    one another, and learns from its own share of them.

    students come from parallel.wrap_distributed; teachers[i] makes the easy maps for students[i].
    weight_at(step) is the weight of the unlabelled loss. Backward runs path by path: the target is
    fixed, so the gradient is that of the sum, and memory does not grow with paths.
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
        """Forward and backward; losses and views' peaks to log, means over the networks."""
        labelled, others = (to_device(part, self.device) for part in batch)
        rows = [self._of_network(i, labelled, others, step) for i in range(len(self.students))]
        return {name: torch.stack([row[name] for row in rows]).mean() for name in rows[0]}

    def _of_network(
        self, i: int, labelled: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor], step: int
    ) -> Losses:
        student = self.students[i]
        supervised = supervised_loss(
            student, self.codec, self.amp, self.gradients, *labelled, last=False
        )
        scene = self.scene(i, *others, step)
        target = self.target(i, scene)
        found = {"loss": supervised, "loss_u": torch.zeros((), device=self.device)}
        found["mask"] = (target.weights > 0).float().mean()
        found["confidence"] = target.confidence.mean()
        found["peak"] = scene.easy.amax((2, 3)).mean()
        for k, path in enumerate(self.ssl.paths):
            last = k + 1 == len(self.ssl.paths)
            loss, peak = self._path(student, path, scene, target, self.weight_at(step), last)
            found["loss_u"] = found["loss_u"] + loss
            found[f"peak_{path}"] = peak  # of a path that comes twice, the last one's
        return found

    def scene(self, i: int, images_u8: Tensor, targets: Tensor, step: int) -> Scene:
        """The hard views for students[i], a function of seed and step."""
        easy = self.teachers[i](images_u8, targets)
        peaks, heights = argmax_decode(easy)
        usable = heights > self.ssl.min_peak
        everyone = normalise(distributed.gather_rows(images_u8))
        size_wh = (everyone.shape[3], everyone.shape[2])
        joints = _to_input(distributed.gather_rows(peaks), size_wh, self.codec.heatmap_size)
        all_usable = distributed.gather_rows(usable).cpu().numpy()
        rng = np.random.default_rng([*self.seed, step, i])
        views = HardViews(rng, self.ssl, joints, all_usable, size_wh)
        theta = draw_theta(rng, self.ssl, len(everyone), size_wh).to(self.device)
        own = slice(len(easy) * distributed.rank(), len(easy) * (distributed.rank() + 1))
        warped = warp_maps(easy, theta[own])
        return Scene(easy, warped, peaks, usable, theta[own], everyone, views, own)

    def target(self, i: int, scene: Scene) -> Target:
        """What students[i] is drawn to in this scene; the scene's views are not yet drawn."""
        if self.ssl.loss == "multiaugs":
            return easy_target(scene.warped, scene.usable.float())
        inside = stays_inside(scene.peaks, scene.theta, self.codec.heatmap_size)
        mean = self._mean_of_paths(self.students[i], scene)
        return ensemble_target(scene.warped, mean, inside, self.ssl, self.codec.sigma)

    @torch.no_grad()
    def _mean_of_paths(self, student: nn.Module, scene: Scene) -> Tensor:
        """Of the paths' maps (B, K, H, W), from a forward of its own: none has to be kept."""
        views, total = deepcopy(scene.views), torch.zeros_like(scene.warped)
        for path in self.ssl.paths:
            total += self.hard_maps(student, views.along(path, scene.everyone)[scene.own], scene)
        return total / len(self.ssl.paths)

    @torch.no_grad()
    def hard_maps(self, student: nn.Module, hard: Tensor, scene: Scene) -> Tensor:
        """The student's maps (B, K, H, W), float32, of a path's view before the shared affine."""
        parts = []
        with without_drop_path(student), autocast(self.device, self.amp):
            for images, theta in self.gradients.split(hard, scene.theta):
                parts.append(self.codec.heights(student(warp_maps(images, theta))).float())
        return torch.cat(parts)

    def _path(
        self,
        student: nn.Module,
        path: str,
        scene: Scene,
        target: Target,
        weight: float,
        last: bool,
    ) -> tuple[Tensor, Tensor]:
        """Detached loss and mean peak of a path, the loss's gradient added."""
        hard = scene.views.along(path, scene.everyone)[scene.own]
        losses: list[Tensor] = []
        peaks: list[Tensor] = []
        for images, theta, maps, weights, confidence in self.gradients.split(
            hard, scene.theta, target.maps, target.weights, target.confidence
        ):
            parallel.sync_gradients_(student, last and len(losses) + 1 == self.gradients.accumulate)
            with autocast(self.device, self.amp):
                heatmaps = self.codec.heights(student(warp_maps(images, theta)))
            loss = path_loss(heatmaps, Target(maps, weights, confidence), self.ssl)
            self.gradients.backward(weight * loss)
            losses.append(loss.detach())
            peaks.append(heatmaps.detach().float().amax((2, 3)).mean())
        return torch.stack(losses).mean(), torch.stack(peaks).mean()


def _to_input(
    peaks: Tensor, size_wh: tuple[int, int], heatmap_wh: tuple[int, int]
) -> NDArray[np.float64]:
    """Peak cells as input pixels, by the UDP rule."""
    factor = (np.array(size_wh) - 1) / (np.array(heatmap_wh) - 1)
    return peaks.cpu().numpy().astype(np.float64) * factor
