"""Samples depend only on (seed, epoch, index), and their images agree with their targets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pose.coco.annotations import Person
from pose.coco.files import SplitFiles
from pose.coco.images import Images
from pose.codecs import gaussian
from pose.codecs.udp import UdpCodec
from pose.common.errors import PoseError
from pose.common.params import Augment
from pose.common.skeleton import COCO_17
from pose.crop_table import CropTable
from pose.crops.shards import CropSettings, write_shard
from pose.data.samples import (
    MAX_TEMPORARY_FOLDER,
    EpochOrder,
    StepBatches,
    TestSamples,
    TrainingSamples,
    batch_loader,
    steps_per_epoch,
    test_batches,
)
from sections import BOX_AUGMENT, FULL_AUGMENT, NO_AUGMENT, changed

ROOT = Path(__file__).resolve().parents[3]
CODEC = UdpCodec("gaussian", (48, 64), (24, 32), 1.5, 0.0546875, COCO_17.flip_indices)


def samples_of(
    table: CropTable,
    min_keypoints: int = 0,
    seed: int = 7,
    augment: Augment = FULL_AUGMENT,
    codec: UdpCodec = CODEC,
) -> TrainingSamples:
    rows = table.labelled()
    return TrainingSamples(table, rows, augment, COCO_17, codec, min_keypoints, (seed,))


def equal(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_sample_depends_only_on_seed_epoch_and_index(crop_table: CropTable) -> None:
    samples = samples_of(crop_table)
    first = samples[2, 1]
    samples[0, 0], samples[5, 3]  # samples drawn in between have no effect
    assert equal(samples[2, 1], first)
    assert equal(samples_of(crop_table)[2, 1], first)
    for other in (samples[3, 1], samples[2, 2], samples_of(crop_table, seed=8)[2, 1]):
        assert not equal(other, first)
    image, target = first
    assert (image.shape, image.dtype) == ((64, 48, 3), np.uint8)
    assert (target.shape, target.dtype) == ((17, 3), np.float32)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_batches_do_not_depend_on_the_number_of_workers(
    crop_table: CropTable, workers: int
) -> None:
    samples = samples_of(crop_table)

    def load(count: int) -> list:
        return list(batch_loader(samples, StepBatches(5, 2, (7,), 1, 6), count))

    expected, batches = load(0), load(workers)
    assert len(expected) == len(batches) == 5
    for a, b in zip(expected, batches, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    assert expected[0][0].shape == (2, 64, 48, 3)


LOAD = """  # loads batches in $TMPDIR, then in the given folder
import sys, tempfile
import torch
from pose.common.errors import PoseError
from pose.data.samples import batch_loader
for folder in (None, sys.argv[1]):
    tempfile.tempdir = folder
    try:
        print(len(list(batch_loader([torch.zeros(1)] * 3, [[0], [1, 2]], 1))))
    except PoseError as error:
        print(error)
"""


@pytest.fixture
def long_folders() -> Iterator[list[Path]]:
    """Folders with the longest path that a temporary folder may have, and with a longer one."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    longest = MAX_TEMPORARY_FOLDER - len(f"{folder}/")
    folders = [folder / ("x" * length) for length in (longest, longest + 1)]
    for path in folders:
        path.mkdir()
    yield folders
    shutil.rmtree(folder)


def test_batches_arrive_or_the_temporary_folder_is_named(long_folders: list[Path]) -> None:
    """If the path of a worker's socket is too long, torch waits for the first batch forever."""
    paths = {"PYTHONPATH": str(ROOT / "stages"), "TMPDIR": str(long_folders[0])}
    command = [sys.executable, "-c", LOAD, str(long_folders[1])]
    done = subprocess.run(
        command, env=os.environ | paths, capture_output=True, text=True, timeout=100
    )
    first, second = done.stdout.splitlines()
    assert first == "2"
    assert "at most 75 for the paths of its sockets; set TMPDIR" in second


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_does_not_advance_torchs_generator(crop_table: CropTable, workers: int) -> None:
    """Otherwise a resumed run, which creates a second loader, would have other drop paths."""
    before = torch.get_rng_state()
    list(batch_loader(samples_of(crop_table), StepBatches(5, 2, (7,), 0, 2), workers))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def dotted(tmp_path: Path, crop_settings: CropSettings) -> CropTable:
    """17 people with one labelled keypoint each, a dot on black, and one person without either."""
    (tmp_path / "train").mkdir()
    folder = tmp_path / "dots"
    folder.mkdir()
    rng = np.random.default_rng(3)
    x, y = np.meshgrid(np.arange(400), np.arange(440))
    persons = []
    for k in range(18):
        keypoints, name = np.zeros((17, 3), np.float32), f"{k:03d}.jpg"
        keypoints[k % 17] = (*rng.uniform((190, 210), (210, 250)), 2)
        keypoints[:, 2] *= k < 17
        dx, dy = x - keypoints[k % 17, 0], y - keypoints[k % 17, 1]
        level = 250 * np.exp(-(dx**2 + dy**2) / 18) * (k < 17)
        cv2.imwrite(
            str(tmp_path / "train" / name), np.repeat(level[..., None], 3, 2).astype(np.uint8)
        )
        box, labelled = (170.0, 190.0, 60.0, 80.0), int(k < 17)
        persons.append(Person(k, k, name, (400, 440), box, 9.0, labelled, keypoints))
    images = Images(SplitFiles("train", tmp_path / "unused.json", tmp_path / "train"))
    assert not write_shard(folder / "00000.arrow", images, persons, crop_settings).bad
    table = CropTable(folder)
    assert all(
        (table.crop_xy[row] > 0).all() for row in range(len(table))
    )  # so that tests cover the crop offset
    return table


def centroid(image: np.ndarray) -> np.ndarray:
    level = np.where(image[..., 0] > 20, image[..., 0], 0).astype(float)
    y, x = np.indices(level.shape)
    return np.array([(x * level).sum(), (y * level).sum()]) / level.sum()


@pytest.mark.parametrize("flip_prob", [0.0, 1.0])
def test_pixels_agree_with_targets(dotted: CropTable, flip_prob: float) -> None:
    """Through cache, crop offset, JPEG and warp: the dot is at its channel's target."""
    augment = changed(BOX_AUGMENT, flip_prob=flip_prob, half_body_prob=0.0, scale_factor=0.1)
    samples = samples_of(dotted, augment=augment)
    channels = []
    for k in range(17):
        image, target = samples[0, k]
        (channel,) = np.flatnonzero(target[:, 2])
        channels.append(int(channel))
        input_px = target[channel, :2] * (47 / 23, 63 / 31)
        np.testing.assert_allclose(centroid(image), input_px, atol=0.2)
    mirrored = [0, *[k + 1 if k % 2 else k - 1 for k in range(1, 17)]]
    assert channels == (mirrored if flip_prob else list(range(17)))


def test_test_samples_agree_with_the_cached_target(dotted: CropTable) -> None:
    samples = TestSamples(dotted, dotted.labelled(), 1.25, CODEC)
    for k in range(0, 17, 4):
        sample = samples[k]
        np.testing.assert_allclose(
            centroid(sample["image"]), sample["target"][k, :2] * (47 / 23, 63 / 31), atol=0.2
        )
        np.testing.assert_allclose(sample["center"], (200, 230))
        np.testing.assert_allclose(sample["scale"], (75, 100))
        assert sample["row"] == k


def test_a_loader_of_test_batches_has_the_order_and_the_last_batch(crop_table: CropTable) -> None:
    samples = TestSamples(crop_table, crop_table.labelled(), 1.25, CODEC)
    loader = batch_loader(samples, test_batches(len(samples), 2, 0, 1), 0)
    batches = list(loader)
    assert [batch["row"].tolist() for batch in batches] == [[0, 2], [3, 4], [5]]
    assert batches[2]["image"].shape == (1, 64, 48, 3)
    assert batches[0]["center"].dtype == torch.float64


def test_scaled_images_equal_those_of_rescaled_boxes(crop_table: CropTable) -> None:
    rows = crop_table.labelled()
    sample = TestSamples(crop_table, rows, 1.25, CODEC, (0.8, 1.0, 1.2))[1]
    assert sample["scaled"].shape == (2, 64, 48, 3)
    for image, padding in zip(sample["scaled"], (1.0, 1.5), strict=True):
        expected = TestSamples(crop_table, rows, padding, CODEC)[1]["image"]
        assert np.abs(image.astype(int) - expected).max() <= 1
    assert "scaled" not in TestSamples(crop_table, rows, 1.25, CODEC)[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_batch_loader_loads_the_given_batches(crop_table: CropTable, workers: int) -> None:
    samples = TestSamples(crop_table, crop_table.labelled(), 1.25, CODEC)
    state = torch.get_rng_state()
    batches = list(batch_loader(samples, [[3, 4], [0]], workers))
    assert [batch["row"].tolist() for batch in batches] == [[4, 5], [0]]
    assert torch.equal(torch.get_rng_state(), state)  # training is not affected


def test_samples_with_few_keypoints_are_redrawn(crop_table: CropTable) -> None:
    counts = [int((crop_table.keypoints[row][:, 2] > 0).sum()) for row in crop_table.labelled()]
    assert counts == [17, 17, 8, 17, 12]
    any_count = [samples_of(crop_table, 0)[e, 2][1][:, 2].sum() for e in range(20)]
    at_least_9 = [samples_of(crop_table, 9)[e, 2][1][:, 2].sum() for e in range(20)]
    assert max(any_count) <= 8
    assert min(at_least_9) >= 9


def test_an_occluded_keypoint_counts_as_one_whatever_its_weight(crop_table: CropTable) -> None:
    """The person of row 2 has 8 keypoints, of which 2 are occluded."""
    half = replace(CODEC, occluded_weight=0.5)
    samples = samples_of(crop_table, 8, augment=NO_AUGMENT, codec=half)
    assert samples[0, 2][1][:, 2].sum() == 7.0
    none = samples_of(crop_table, 7, augment=NO_AUGMENT, codec=replace(CODEC, occluded_weight=0.0))
    assert none[0, 2][1][:, 2].sum() > 7  # 6 keypoints are left, so another person was drawn


def test_crops_are_warped_as_the_codec_says(crop_table: CropTable) -> None:
    """In training and in evaluation; at this input every box of the tiny set is enlarged."""
    large, plain = replace(CODEC, input_size=(240, 320)), changed(NO_AUGMENT, photometric_prob=0.0)
    found = {}
    for kind in ("linear", "cubic"):
        codec = replace(large, interpolation=kind)
        image = samples_of(crop_table, augment=plain, codec=codec)[0, 0][0]
        test_image = TestSamples(crop_table, crop_table.labelled(), 1.25, codec)[0]["image"]
        np.testing.assert_array_equal(image, test_image)
        found[kind] = image.astype(int)
    difference = np.abs(found["cubic"] - found["linear"])
    assert 0 < difference.max() < 30


def test_redrawn_image_and_target_are_of_one_person(dotted: CropTable) -> None:
    augment = changed(BOX_AUGMENT, flip_prob=0.0, half_body_prob=0.0, scale_factor=0.1)
    rows = np.arange(18)
    samples = TrainingSamples(dotted, rows, augment, COCO_17, CODEC, 1, (7,))
    for epoch in range(5):
        image, target = samples[epoch, 17]
        (channel,) = np.flatnonzero(target[:, 2])
        input_px = target[channel, :2] * (47 / 23, 63 / 31)
        np.testing.assert_allclose(centroid(image), input_px, atol=0.2)


def test_two_samples_of_one_person_differ(crop_table: CropTable) -> None:
    samples = TrainingSamples(crop_table, np.array([0, 0]), FULL_AUGMENT, COCO_17, CODEC, 0, (7,))
    assert not equal(samples[0, 0], samples[0, 1])


def test_redrawing_ends_after_max_redraws(dotted: CropTable) -> None:
    """Nobody has 18 keypoints, so the last person drawn is used, image and target."""
    augment = changed(BOX_AUGMENT, flip_prob=0.0, half_body_prob=0.0, scale_factor=0.1)
    samples = TrainingSamples(dotted, np.arange(17), augment, COCO_17, CODEC, 18, (7,))
    for epoch in range(5):
        image, target = samples[epoch, 3]
        (channel,) = np.flatnonzero(target[:, 2])
        input_px = target[channel, :2] * (47 / 23, 63 / 31)
        np.testing.assert_allclose(centroid(image), input_px, atol=0.2)


@pytest.mark.parametrize(("count", "batch", "steps"), [(4, 4, 1), (9, 4, 2), (8, 1, 8)])
def test_steps_per_epoch(count: int, batch: int, steps: int) -> None:
    assert steps_per_epoch(count, batch) == steps


def test_too_few_samples_for_a_batch() -> None:
    with pytest.raises(PoseError, match=r"train\.batch_size = 4 .* 3 people .* set it to 3 or"):
        steps_per_epoch(3, 4)
    with pytest.raises(PoseError, match=r"ssl\.batch_size = 4 is more"):
        steps_per_epoch(3, 4, "ssl.batch_size")


def test_each_epoch_has_its_own_shuffle_without_the_last_batch() -> None:
    batches = list(StepBatches(11, 3, (0,), 0, 9))
    for epoch in range(3):
        part = batches[3 * epoch : 3 * epoch + 3]
        assert all(e == epoch for batch in part for e, _ in batch)
        seen = [i for batch in part for _, i in batch]
        assert len(set(seen)) == 9
        assert set(seen) <= set(range(11))
    orders = {tuple(i for batch in batches[3 * e : 3 * e + 3] for _, i in batch) for e in range(3)}
    assert len(orders) == 3


@pytest.mark.parametrize("start", [0, 1, 3, 4, 8, 9])
def test_batches_from_a_later_start_are_the_same(start: int) -> None:
    whole = list(StepBatches(11, 3, (0,), 0, 9))
    tail = StepBatches(11, 3, (0,), start, 9)
    assert list(tail) == whole[start:]
    assert len(tail) == 9 - start


def test_seeds_give_different_batches() -> None:
    assert list(StepBatches(50, 3, (0, 1), 0, 2)) != list(StepBatches(50, 3, (0, 2), 0, 2))


def test_heatmaps_of_a_batch_are_empty_where_weights_are_zero(crop_table: CropTable) -> None:
    loader = batch_loader(samples_of(crop_table), StepBatches(5, 5, (7,), 0, 1), 0)
    ((_, targets),) = loader
    maps = gaussian.render_heatmaps(targets, CODEC.heatmap_size, CODEC.sigma)
    assert torch.equal(maps.amax((2, 3)) > 0, targets[..., 2] > 0)


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_processes_split_each_batch(world_size: int) -> None:
    whole = list(StepBatches(20, 6, (0,), 2, 7))
    shares = [list(StepBatches(20, 6, (0,), 2, 7, rank, world_size)) for rank in range(world_size)]
    assert [list(chain(*parts)) for parts in zip(*shares, strict=True)] == whole
    assert {len(part) for parts in shares for part in parts} == {6 // world_size}


@pytest.mark.parametrize("count", [0, 1, 4, 9, 12])
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_processes_split_the_test_batches(count: int, world_size: int) -> None:
    """Each batch of a single process is in exactly one process, the last batch included."""
    single = test_batches(count, 4, 0, 1)
    assert list(chain(*single)) == list(range(count))
    shares = [test_batches(count, 4, rank, world_size) for rank in range(world_size)]
    assert sorted(chain(*shares)) == single


# ------------------------------------------------------------------------- several training sets

SETS = np.array([0] * 6 + [1] * 5)


def drawn(weights: list[float], epoch: int) -> list[int]:
    return EpochOrder(SETS, weights)(np.random.default_rng([0, epoch])).tolist()


def test_weights_of_one_change_no_order() -> None:
    assert drawn([1.0, 1.0], 3) == np.random.default_rng([0, 3]).permutation(11).tolist()


def test_an_epoch_has_each_person_as_often_as_its_set_weighs() -> None:
    for epoch in range(4):
        order = drawn([1.0, 2.6], epoch)
        assert len(order) == len(EpochOrder(SETS, [1.0, 2.6])) == 6 + 13
        assert len({*order}) == len(order)  # repetitions have indices of their own
        people = [index % 11 for index in order]
        assert sorted(person for person in people if person < 6) == [*range(6)]
        counts = [people.count(person) for person in range(6, 11)]
        assert sorted(counts) == [2, 2, 3, 3, 3]
    assert drawn([1.0, 0.4], 0) != drawn([1.0, 0.4], 1)
    chosen = [{i for i in drawn([1.0, 0.4], epoch) if i > 5} for epoch in range(40)]
    assert {len(some) for some in chosen} == {2}
    assert len(set.union(*chosen)) == 5  # others in each epoch


def test_weighted_steps_do_not_depend_on_resuming_or_processes() -> None:
    order = EpochOrder(SETS, [1.0, 1.5])  # 14 samples
    whole = list(StepBatches(order, 4, (0,), 0, 9))
    assert list(StepBatches(order, 4, (0,), 5, 9)) == whole[5:]
    shares = [list(StepBatches(order, 4, (0,), 0, 9, rank, 2)) for rank in range(2)]
    assert [a + b for a, b in zip(*shares, strict=True)] == whole
    assert [key[0] for batch in whole for key in batch] == [0] * 12 + [1] * 12 + [2] * 12


def test_a_repeated_person_is_augmented_differently(crop_table: CropTable) -> None:
    samples = samples_of(crop_table)
    first, again = samples[0, 1], samples[0, 1 + len(samples.rows)]
    assert not np.array_equal(first[0], again[0])
    assert equal(samples[0, 1], first)
