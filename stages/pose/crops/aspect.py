"""How much of the network's input a person's box fills, and which input size of equal cost fits it.

A crop is the padded box, extended to the aspect ratio of codec.input_size (codecs/geometry.py): the
rest of the input shows what is beside the person.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pose.common.params import Codec, Model
from pose.crop_table import CropTable

LOW_FILL = 0.5  # COCO's people fill 0.6 to 0.7 of an input of 3:4
GAIN = 1.1  # another size is named if the box gets so many times the pixels
SizeWH = tuple[int, int]


def median_ratio(table: CropTable) -> float:
    """Median width / height of the boxes; NaN without people."""
    boxes = [part[:, 2:] for part in table.bbox_xywh.parts]
    sizes: NDArray[np.float64] = np.concatenate(boxes) if boxes else np.empty((0, 2))
    return float(np.median(sizes[:, 0] / sizes[:, 1])) if len(sizes) else float("nan")


def fill(ratio: float, input_wh: SizeWH) -> float:
    """Share of the input that the padded box of this width / height takes.

    >>> fill(1.5, (72, 96))
    0.5
    """
    relative = ratio * input_wh[1] / input_wh[0]
    return min(relative, 1 / relative)


def best_size(ratio: float, input_wh: SizeWH, patch: int) -> SizeWH:
    """The size of no more pixels in which the box has the most; sides are multiples of patch.

    >>> best_size(1.5, (72, 96), 8)
    (96, 72)
    """
    tokens = (input_wh[0] // patch) * (input_wh[1] // patch)
    sizes = [(w * patch, tokens // w * patch) for w in range(1, tokens + 1)]
    return max(sizes, key=lambda size: fill(ratio, size) * size[0] * size[1])


def advice(ratio: float, codec: Codec, model: Model) -> str:
    """What the median box fills now, and the settings that give it more pixels, if any."""
    now = codec.input_size
    line = f"the padded median box (w/h {ratio:.2f}) fills {fill(ratio, now):.0%} of {_name(now)}"
    best = best_size(ratio, now, model.patch_size)
    pixels = [fill(ratio, size) * size[0] * size[1] for size in (best, now)]
    if pixels[0] < GAIN * pixels[1]:
        return line
    heatmap = [side * codec.heatmap_size[0] // now[0] for side in best]
    settings = f"codec.input_size: {list(best)} with codec.heatmap_size: {heatmap}"
    return f"{line}; {settings} costs the same or less and is filled by {fill(ratio, best):.0%}"


def _name(size: SizeWH) -> str:
    return f"{size[0]} x {size[1]} (w x h)"
