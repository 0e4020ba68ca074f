"""How many of a split's keypoints there are to learn from: labelled, and in their person's crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pose.common.errors import PoseError
from pose.crop_table import CropTable


@dataclass(frozen=True)
class Coverage:
    """Counts of a split: persons with a keypoint, and (K,) keypoints of these.

    in_crop counts those labelled keypoints whose target lies on the heatmap of the unaugmented box.
    """

    labelled_persons: int
    labelled: NDArray[np.int64]
    in_crop: NDArray[np.int64]

    def shares(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """(K,) of the persons with a keypoint, 0..1."""
        return counts / max(self.labelled_persons, 1)


def measure(table: CropTable, heatmap_wh: tuple[int, int]) -> Coverage:
    """The coverage of a cached split."""
    labelled, in_crop = (np.zeros(table.keypoints.shape[1], np.int64) for _ in range(2))
    for keypoints, target in zip(table.keypoints.parts, table.target.parts, strict=True):
        seen, cells = keypoints[..., 2] > 0, target[..., :2]
        on_map = ((cells >= -0.5) & (cells <= np.array(heatmap_wh) - 0.5)).all(axis=2)
        labelled += seen.sum(axis=0)
        in_crop += (seen & on_map & (target[..., 2] > 0)).sum(axis=0)
    return Coverage(len(table.labelled()), labelled, in_crop)


def nothing(num_keypoints: int) -> Coverage:
    """The coverage of a split without annotations."""
    return Coverage(0, np.zeros(num_keypoints, np.int64), np.zeros(num_keypoints, np.int64))


def require_keypoints(found: Coverage, file: str) -> None:
    """Raises PoseError if all targets of a split are zero: a loss of 0.0000, nothing to score."""
    if not found.labelled.any():
        raise PoseError(
            f"{file}: no person has a labelled keypoint (visibility 1 or "
            "2), so every target would be zero; is 'keypoints' filled in, and data.category right?"
        )
    if not found.in_crop.any():
        raise PoseError(
            f"{file}: {found.labelled.sum():,} keypoints are labelled, but none lies in its "
            "person's crop, so every target would be zero; are 'keypoints' and 'bbox' (x, y, w, h) "
            "in pixels of the same image?"
        )


def never(names: Sequence[str], counts: NDArray[np.int64]) -> list[str]:
    """Names of the keypoints that were counted not once."""
    return [name for name, count in zip(names, counts, strict=True) if count == 0]
