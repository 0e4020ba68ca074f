"""Drawing: poses over images, heatmaps in colour, captions, grids of images, JPEG."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pose.common.skeleton import Skeleton, parts_of

Image = NDArray[np.uint8]
Array = NDArray[np.float64]
Colour = tuple[int, int, int]  # BGR

# BGR, for the person's left, right and middle; distinguishable by colour-blind readers.
LEFT, RIGHT, MIDDLE = (255, 140, 30), (40, 110, 255), (235, 235, 235)
UPSCALE = 4  # keypoints are drawn with sub-pixel accuracy: 2 fractional bits, cv2's `shift`


def side_colour(skeleton: Skeleton, *keypoints: int) -> Colour:
    """Colour of a keypoint, or of a limb between two; sides are those of skeleton.flip_pairs."""
    left, right = ({pair[side] for pair in skeleton.flip_pairs} for side in (0, 1))
    if left.issuperset(keypoints):
        return LEFT
    return RIGHT if right.issuperset(keypoints) else MIDDLE


def fine_keypoints(names: Sequence[str]) -> frozenset[int]:
    """Indices of the keypoints of face and hands, which are too close for large points.

    With a face, nose, eyes and ears of the body are among them.
    """
    parts = parts_of(names)
    fine = [parts[part] for part in ("face", "lefthand", "righthand") if part in parts]
    fine += [slice(0, 5)] if "face" in parts else []
    return frozenset(k for where in fine for k in range(where.start, where.stop))


def draw_pose(
    image: Image,
    skeleton: Skeleton,
    keypoints: Array,
    shown: NDArray[np.bool_],
    thickness: int,
    colour: Colour | None = None,
) -> Image:
    """A copy of the BGR image with keypoints (K, 2) and their limbs, where `shown` (K,) is true.

    thickness: of limbs in pixels. colour: of all of them; None: by their side. Hands and face of
    COCO-WholeBody are drawn thin and small.
    """
    out, fine = image.copy(), fine_keypoints(skeleton.names)
    points = [(int(x), int(y)) for x, y in np.rint(keypoints * UPSCALE)]
    for a, b in skeleton.limbs:
        if shown[a] and shown[b]:
            width = max(1, thickness // 2) if a in fine and b in fine else thickness
            limb = colour or side_colour(skeleton, a, b)
            cv2.line(out, points[a], points[b], limb, width, cv2.LINE_AA, 2)
    for k in np.flatnonzero(shown):
        dot = colour or side_colour(skeleton, int(k))
        if k in fine:
            cv2.circle(out, points[k], (3 * thickness + 1) // 2, dot, -1, cv2.LINE_AA, 2)
            continue
        radius = (thickness + 1) * UPSCALE
        cv2.circle(out, points[k], radius, (20, 20, 20), -1, cv2.LINE_AA, 2)
        cv2.circle(out, points[k], radius - UPSCALE, dot, -1, cv2.LINE_AA, 2)
    return out


def draw_heatmap(image: Image, heatmap: NDArray[np.float32]) -> Image:
    """The darkened image (h, w, 3) with a heatmap (H, W) of values 0..1 over it in colour."""
    size = (image.shape[1], image.shape[0])
    level = np.clip(cv2.resize(heatmap, size, interpolation=cv2.INTER_LINEAR), 0, 1)
    colour = cv2.applyColorMap((level * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    mixed = image * 0.45 + colour * 0.75
    return np.clip(mixed, 0, 255).astype(np.uint8)


def enlarge(image: Image, height: int) -> Image:
    """The image resized to a height in pixels, with the same aspect ratio."""
    size = (round(image.shape[1] * height / image.shape[0]), height)
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC).astype(np.uint8, copy=False)


def caption(image: Image, text: str) -> Image:
    """A copy with a line of text in a dark strip above the image."""
    strip = np.full((22, image.shape[1], 3), 32, np.uint8)
    cv2.putText(
        strip, text, (5, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (240, 240, 240), 1, cv2.LINE_AA
    )
    return np.concatenate([strip, image])


def grid(images: Sequence[Image], columns: int) -> Image:
    """Images on a dark background, `columns` per row, each centred in a cell of equal size."""
    height = max(image.shape[0] for image in images) + 6
    width = max(image.shape[1] for image in images) + 6
    rows = -(-len(images) // columns)
    out = np.full((rows * height, min(columns, len(images)) * width, 3), 24, np.uint8)
    for i, image in enumerate(images):
        y = (i // columns) * height + (height - image.shape[0]) // 2
        x = (i % columns) * width + (width - image.shape[1]) // 2
        out[y : y + image.shape[0], x : x + image.shape[1]] = image
    return out


def encode_jpeg(image: Image, quality: int = 88) -> bytes:
    """JPEG bytes of a BGR image; the same image gives the same bytes."""
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def placeholder(text: str) -> Image:
    """An image with only a caption, in place of a picture that a run does not make."""
    return caption(np.zeros((8, 320, 3), np.uint8), text)
