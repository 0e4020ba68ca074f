"""Validation while a phase trains: AP on the first people of val, and pictures of a few.

Draws no random numbers and changes no weights: a run ends with the same bits with or without it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pose import distributed
from pose.codecs.gaussian import argmax_decode
from pose.codecs.udp import UdpCodec
from pose.common import stage
from pose.common.errors import PoseError
from pose.common.files import read_json
from pose.common.log import log
from pose.common.params import Train
from pose.common.skeleton import Skeleton
from pose.crop_table import CropTable
from pose.data.samples import TestSamples, batch_loader, test_batches
from pose.draw import draw_heatmap, draw_pose, encode_jpeg, enlarge, grid
from pose.engine.fit import Row, TrainState, trained_weights
from pose.engine.optim import Schedule
from pose.evaluation.coco_metrics import coco_eval, to_results
from pose.evaluation.predict import (
    Predictions,
    concat_predictions,
    gather_predictions,
    predict_batches,
)
from pose.models.build import autocast
from pose.models.pose_model import PoseModel, normalise

PICTURE_PEOPLE = 6  # per picture
PANEL = 144  # pixels, height of each of their four views
TTA = "none"  # test-time augmentation: the plain image


class Validation:
    """Validates `model` after an epoch, with the weights that would be saved: the EMA's, if any."""

    def __init__(
        self,
        name: str,
        model: PoseModel,
        train: Train,
        codec: UdpCodec,
        bbox_padding: float,
        skeleton: Skeleton,
        sigmas: NDArray[np.float64],
        schedule: Schedule,
        on_picture: Callable[[Tensor], None],
    ) -> None:
        self.model, self.on_picture = model, on_picture
        self.name, self.train, self.schedule = name, train, schedule
        self.skeleton, self.sigmas = skeleton, sigmas
        table = CropTable(stage.CACHE / "val")
        rows = first_rows(table, train.val_persons)
        if not len(rows) and (train.val_epochs or train.picture_epochs):
            raise PoseError(
                f"{stage.CACHE / 'val'}: nobody has keypoints, so val_AP and pictures are "
                "impossible; train with a data.val_split that has them (docs/evaluation.md on "
                "test-dev), or set train.val_epochs and train.picture_epochs to 0"
            )
        self.samples = TestSamples(table, rows, bbox_padding, codec)

    def __call__(self, state: TrainState) -> Row:
        """A row with val_AP if it is due; best weights and the picture are stored in state."""
        validates = self._due(self.train.val_epochs, state.step)
        pictures = self._due(self.train.picture_epochs, state.step)
        if not (validates or pictures):
            return {}
        row: Row = {}
        averaged = state.ema.swapped_in() if state.ema else contextlib.nullcontext()
        with averaged, eval_mode(self.model):
            if validates:
                row = {"step": float(state.step), "val_AP": self._ap()}
                self._note_best_(state, row)
            if pictures:
                state.picture = self._picture()
                self.on_picture(state.picture)
        return row

    def _due(self, every: int, step: int) -> bool:
        """Whether a step ends a multiple of `every` epochs, or the run; never if `every` is 0."""
        if not every:
            return False
        return step % (every * self.schedule.steps_per_epoch) == 0 or step == self.schedule.steps

    def _ap(self) -> float:
        """COCO's AP of the first persons in their annotated boxes; the same in all processes.

        Highest cells of the plain image's maps: no mirrored image, no refinement, no NMS.
        """
        train = self.train
        size = train.batch_size // (train.accumulate * distributed.world_size())
        found = predict_peaks(self.model, self.samples, size, train.amp)
        if not distributed.is_main_process():
            return distributed.broadcast(0.0)
        table, rows = self.samples.table, self.samples.rows
        areas = self.samples.padded_areas(found.rows)
        truth = read_json(stage.CACHE / "ground_truth.json")
        truth = restrict_to_images(truth, set(table.image_id[rows].tolist()))
        category_id = truth["categories"][0]["id"]
        results = to_results(table, found, areas, 0.0, 1.0, self.sigmas, category_id)
        ap = coco_eval(truth, results, self.sigmas)["AP"]
        log(f"{self.name}: val_AP {ap:.3f} on {len(rows):,} people")
        return distributed.broadcast(ap)

    def _note_best_(self, state: TrainState, row: Row) -> None:
        """Store a copy of the weights if val_AP is the highest so far; the first process only."""
        better = row["val_AP"] >= state.best.get("val_AP", -2.0)
        if not distributed.broadcast(better):
            return
        weights = trained_weights(self.model)
        if distributed.is_main_process():
            copies = {name: tensor.to("cpu", copy=True) for name, tensor in weights.items()}
            state.best = {**row, "weights": copies}

    def _picture(self) -> Tensor:
        """JPEG bytes (N,); per person: ground truth, its maps, predicted maps, predicted pose."""
        spread = np.linspace(0, len(self.samples) - 1, min(PICTURE_PEOPLE, len(self.samples)))
        people = [self.samples[int(index)] for index in spread]
        images = np.stack([person["image"] for person in people])
        codec, device = self.samples.codec, next(self.model.parameters()).device
        with autocast(device, self.train.amp):
            maps = self.model(normalise(torch.from_numpy(images).to(device)))
        found = codec.heatmaps(maps.float()).cpu()
        wanted = torch.from_numpy(np.stack([person["target"] for person in people]))
        rendered = codec.heatmaps(codec.render(wanted))
        views: list[NDArray[np.uint8]] = []
        for i, image in enumerate(images):
            big, shown = enlarge(image, PANEL), wanted[i, :, 2].numpy() > 0
            views += [
                self._draw_pose(big, wanted[i, :, :2].numpy(), shown),
                draw_heatmap(big, rendered[i].amax(0).numpy()),
                draw_heatmap(big, found[i].amax(0).numpy()),
                self._draw_pose(big, argmax_decode(found[i : i + 1])[0][0].numpy(), shown),
            ]
        jpeg = encode_jpeg(grid(views, columns=8))
        return torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)

    def _draw_pose(
        self, view: NDArray[np.uint8], cells: NDArray[np.float32], shown: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        """The view with keypoints (K, 2), given in heatmap cells, drawn on it."""
        spans = (np.array(view.shape[1::-1]) - 1) / (np.array(self.samples.codec.heatmap_size) - 1)
        return draw_pose(view, self.skeleton, cells * spans, shown, 1)


def first_rows(table: CropTable, count: int) -> NDArray[np.intp]:
    """Rows of the first `count` labelled people, and of all labelled people in their images."""
    rows = table.labelled()
    return rows[np.isin(table.image_id[rows], table.image_id[rows[:count]])]


def restrict_to_images(truth: dict[str, Any], image_ids: set[int]) -> dict[str, Any]:
    """COCO annotations restricted to these images."""
    return truth | {
        "images": [image for image in truth["images"] if image["id"] in image_ids],
        "annotations": [
            person for person in truth["annotations"] if person["image_id"] in image_ids
        ],
    }


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Inside the context: eval mode, no gradients. Afterwards each module has its mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def predict_peaks(model: PoseModel, samples: TestSamples, batch_size: int, amp: str) -> Predictions:
    """Argmax of the plain images' heatmaps, per sample once and in order, in all processes.

    A process with fewer batches than others repeats a sample: FSDP's forward needs all processes.
    """
    rank, world = distributed.rank(), distributed.world_size()
    own, longest = (test_batches(len(samples), batch_size, who, world) for who in (rank, 0))
    loader = batch_loader(samples, [*own, *[[0]] * (len(longest) - len(own))], 0)
    device, codec = next(model.parameters()).device, samples.codec
    decoders = {"argmax": lambda maps: argmax_decode(codec.heatmaps(maps))}  # never blurred
    each = list(predict_batches(model, codec, loader, device, amp, decoders, [TTA]))[: len(own)]
    parts = [part[TTA, "argmax"] for part in each]
    found = {(TTA, "argmax"): concat_predictions(parts)} if parts else {}
    return gather_predictions(found, len(samples), batch_size)[TTA, "argmax"]
