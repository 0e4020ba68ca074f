"""Augmentation on the device equals augmentation in the loader."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pose.common.skeleton import COCO_17
from pose.crop_table import CropTable
from pose.crops.shards import CropSettings
from pose.data.augment import BlurDropout, apply_colour_jitter, draw_colour_jitter, fill_hole_
from pose.data.augment_device import augment_batch, pack
from pose.data.samples import StepBatches, TrainingSamples, batch_loader
from pose.engine.fit import to_device
from sections import FULL_AUGMENT, changed

STRONG = changed(
    FULL_AUGMENT,
    half_body_prob=0.0,
    scale_factor=0.2,
    blur_prob=0.0,
    median_blur_prob=0.0,
    dropout_prob=0.7,
)


@pytest.mark.parametrize("official_quirks", [True, False])
def test_device_equals_loader_up_to_rounding(official_quirks: bool) -> None:
    settings, rng = changed(STRONG, official_quirks=official_quirks), np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 40, 64, 3), dtype=np.uint8)
    jitters = [draw_colour_jitter(rng, settings) for _ in images]
    holes = [BlurDropout(settings).draw(rng, (64, 40))[1] for _ in images]
    expected = np.stack(
        [apply_colour_jitter(i, j).copy() for i, j in zip(images, jitters, strict=True)]
    )
    for image, hole in zip(expected, holes, strict=True):
        fill_hole_(image, hole)
    parameters = np.stack([pack(j, h) for j, h in zip(jitters, holes, strict=True)])
    on_device = augment_batch(torch.from_numpy(images), torch.from_numpy(parameters)).numpy()
    difference = np.abs(on_device.astype(int) - expected)
    assert difference.max() <= 2
    assert (difference > 0).mean() < 1e-3
    assert (np.abs(expected.astype(int) - images).mean((1, 2, 3)) > 1).mean() > 0.8


def test_every_hue_agrees_with_opencv() -> None:
    """Also values of 180 to 255, which are invalid hues."""
    settings = changed(STRONG, dropout_prob=0.0)
    levels = np.arange(256, dtype=np.uint8)
    image = np.stack(np.meshgrid(levels[::4], levels[::4], levels[::4]), -1).reshape(64, -1, 3)
    for seed in range(30):
        jitter = replace(draw_colour_jitter(np.random.default_rng(seed), settings), use_hsv=True)
        parameters = torch.from_numpy(pack(jitter, (0, 0, 0, 0)))[None]
        on_device = augment_batch(torch.from_numpy(image)[None], parameters)[0].numpy()
        difference = np.abs(on_device.astype(int) - apply_colour_jitter(image, jitter))
        assert (difference > 0).mean() < 2e-3


@pytest.mark.parametrize("blur_prob", [0.0, 0.5])
def test_deferred_batches_equal_those_of_the_loader(
    crop_table: CropTable, crop_settings: CropSettings, blur_prob: float
) -> None:
    settings = changed(STRONG, blur_prob=blur_prob)
    batches = []
    for deferred in (False, True):
        rows = crop_table.labelled()
        samples = TrainingSamples(
            crop_table, rows, settings, COCO_17, crop_settings.codec, 0, (3,), deferred=deferred
        )
        loader = batch_loader(samples, StepBatches(len(rows), 5, (3,), 0, 4), workers=0)
        batches.append([to_device(batch, torch.device("cpu")) for batch in loader])
    for (images, targets), (deferred_images, deferred_targets) in zip(*batches, strict=True):
        assert torch.equal(targets, deferred_targets)
        difference = (images.int() - deferred_images.int()).abs()
        assert difference.max() <= 2
        assert difference.float().mean() < 0.1
