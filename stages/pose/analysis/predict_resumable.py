"""Predictions stored batch by batch, so that a killed evaluation resumes at the next batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pose import distributed
from pose.codecs.gaussian import Blur
from pose.common.errors import PoseError
from pose.common.files import replacing
from pose.common.log import log, progress
from pose.data.samples import TestSamples, batch_loader, test_batches
from pose.evaluation.predict import (
    Predictions,
    PredictionsByView,
    codec_decoders,
    concat_predictions,
    empty_predictions,
    gather_predictions,
    predict_batches,
)


def predict_resumable(
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
) -> PredictionsByView:
    """Predictions of all samples by (tta, decoder), in all processes.

    Each process reads its batches that are stored in folder, and predicts and stores the others.
    The folder must belong to this network and these samples. network() returns a module in eval
    mode on the device; it is called only if a batch has to be predicted. name is that of the
    network in the log and in errors. Raises PoseError for keypoints or scores that are not finite.
    """
    batches = test_batches(len(samples), batch_size, distributed.rank(), distributed.world_size())
    files = {folder / f"{batch[0]:08d}.npz": batch for batch in batches}
    missing = {path: batch for path, batch in files.items() if not path.exists()}
    if len(missing) < len(batches):
        log(
            f"{name}: {len(batches) - len(missing)} of {len(batches)} batches were predicted before"
        )
    codec, decoders = samples.codec, codec_decoders(samples.codec, blur)
    if missing:
        loader = batch_loader(samples, list(missing.values()), workers)
        bar = progress(loader, name, quiet=not distributed.is_main_process())
        predicted = predict_batches(
            network(), codec, bar, device, amp, decoders, ttas, samples.zooms
        )
        for path, predictions in zip(missing, predicted, strict=True):
            _require_finite(predictions, name)
            save_predictions(path, predictions)
    parts = [load_predictions(path) for path in files]
    empty = empty_predictions(len(codec.flip_indices))
    joined = {
        key: concat_predictions([empty, *(part[key] for part in parts)])
        for key in ((tta, decoder) for tta in ttas for decoder in decoders)
    }
    return gather_predictions(joined, len(samples), batch_size)


def _require_finite(predictions: PredictionsByView, name: str) -> None:
    for poses in predictions.values():
        values = np.concatenate([poses.keypoints.reshape(len(poses.rows), -1), poses.scores], 1)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            raise PoseError(
                f"{name}: the pose in row {poses.rows[bad[0]]} of the cache is not finite "
                f"({len(bad)} of {len(poses.rows)} in its batch); use other weights"
            )


def save_predictions(path: Path, predictions: PredictionsByView) -> None:
    """Write a .npz file atomically; load_predictions returns the same bits."""
    arrays = {
        f"{tta} {decoder} {field.name}": getattr(poses, field.name)
        for (tta, decoder), poses in predictions.items()
        for field in fields(Predictions)
    }
    with replacing(path) as beside, beside.open("wb") as stream:
        np.savez(stream, **arrays)


def load_predictions(path: Path) -> PredictionsByView:
    """The predictions in a file written by save_predictions."""
    with np.load(path, allow_pickle=False) as arrays:
        keys = dict.fromkeys((name.split()[0], name.split()[1]) for name in arrays.files)
        return {
            key: Predictions(
                *(arrays[" ".join([*key, field.name])] for field in fields(Predictions))
            )
            for key in keys
        }
