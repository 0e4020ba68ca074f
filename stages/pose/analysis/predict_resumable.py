"""Predictions kept batch by batch on the disk, so that a killed evaluation goes on behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from pose import distributed
from pose.codecs.gaussian import Blur
from pose.common.errors import PoseError
from pose.common.files import replacing
from pose.common.log import log
from pose.data.samples import TestSamples, batch_loader, test_batches
from pose.evaluation.predict import (
    Found,
    Predictions,
    gather_predictions,
    joined,
    nobody,
    predict_each,
)


def predict_kept(
    folder: Path,
    name: str,
    network: Callable[[], nn.Module],
    samples: TestSamples,
    batch_size: int,
    ttas: Sequence[str],
    device: torch.device,
    amp: str,
    blur: Blur,
    workers: int,
) -> Found:
    """Predictions of all samples by (tta, decoder), in all processes.

    This process's batches that folder holds are read from it, the others are predicted, by the
    network in eval mode on the device, and written to it: folder must speak of this network and
    these samples. Raises PoseError, naming the network, for keypoints that are not finite.
    """
    mine = test_batches(len(samples), batch_size, distributed.rank(), distributed.world_size())
    files = {folder / f"{batch[0]:08d}.npz": batch for batch in mine}
    todo = {path: batch for path, batch in files.items() if not path.exists()}
    if len(todo) < len(mine):
        log(f"{name}: {len(mine) - len(todo)} of {len(mine)} batches were predicted before")
    codec = samples.codec
    if todo:
        loader = batch_loader(samples, list(todo.values()), workers)
        bar = tqdm(loader, name, disable=None if distributed.is_first() else True)
        each = predict_each(network(), codec, bar, device, amp, blur, ttas, samples.zooms)
        for path, found in zip(todo, each, strict=True):
            _require_finite(found, name)
            save_predictions(path, found)
    parts = [load_predictions(path) for path in files]
    none = nobody(len(codec.flip_indices))
    keys = [(tta, decoder) for tta in ttas for decoder in ("argmax", codec.refinement)]
    own = {key: joined([none, *(part[key] for part in parts)]) for key in keys}
    return gather_predictions(own, len(samples), batch_size)


def _require_finite(found: Found, name: str) -> None:
    for one in found.values():
        numbers = np.concatenate([one.keypoints.reshape(len(one.rows), -1), one.scores], axis=1)
        bad = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
        if len(bad):
            raise PoseError(
                f"{name}: the pose in row {one.rows[bad[0]]} of the cache is not of finite numbers "
                f"({len(bad)} of {len(one.rows)} in its batch); has the training diverged?"
            )


def save_predictions(path: Path, found: Found) -> None:
    """Write them (beside, then moved) for load_predictions, bit for bit."""
    arrays = {
        f"{tta} {decoder} {field.name}": getattr(one, field.name)
        for (tta, decoder), one in found.items()
        for field in fields(Predictions)
    }
    with replacing(path) as beside, beside.open("wb") as stream:
        np.savez(stream, **arrays)


def load_predictions(path: Path) -> Found:
    """What save_predictions has written."""
    with np.load(path, allow_pickle=False) as arrays:
        keys = dict.fromkeys((name.split()[0], name.split()[1]) for name in arrays.files)
        return {
            key: Predictions(
                *(arrays[" ".join([*key, field.name])] for field in fields(Predictions))
            )
            for key in keys
        }
