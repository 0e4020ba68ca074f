"""The report's pictures of people: predicted poses by OKS, and heatmaps beside their targets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pose.common.files import read_json
from pose.common.params import Params
from pose.common.skeleton import Skeleton
from pose.crop_table import CropTable
from pose.data import build
from pose.data.samples import TestSamples
from pose.draw import (
    Image,
    caption,
    draw_heatmap,
    draw_pose,
    encode_jpeg,
    enlarge,
    fine_keypoints,
    grid,
)
from pose.models.build import build_model
from pose.models.checkpoint import load_model
from pose.models.pose_model import normalise
from pose.report.page import Picture, Table
from pose.report.tables import MAX_KEYPOINTS

CELL = 220  # pixels: height of the view of one person
FINE_CELL = 330  # with face or hands
LEGEND = "The person's left is blue, right is orange; only labelled keypoints are drawn."
SIDES = "Left: annotated, right: predicted. All people by OKS: data/predictions/instances.csv."
LABEL_WIDTH = 130  # pixels: least width of a panel, for the text above it


@dataclass(frozen=True)
class Person:
    """A labelled person of val and its prediction."""

    row: int  # of the cache
    keypoints: NDArray[np.float64] | None  # (K, 2) in image pixels; None without a box
    oks: float


def read_people(path: Path) -> list[Person]:
    """The labelled people of val with their predictions, the lowest OKS first."""
    people = [
        Person(
            row=record["row"],
            keypoints=None if record["keypoints"] is None else np.array(record["keypoints"]),
            oks=record["oks"],
        )
        for record in read_json(path)
    ]
    return sorted(people, key=lambda person: (person.oks, person.row))


def overlays(
    people: Sequence[Person], table: CropTable, skeleton: Skeleton, count: int
) -> list[Picture]:
    """Four pictures of `count` people each: random, lowest OKS, around the median, highest OKS."""
    random = np.sort(np.random.default_rng(0).permutation(len(people))[:count])
    middle = max(0, len(people) // 2 - count // 2)
    selections = {
        ("poses", "Randomly selected people"): [people[i] for i in random],
        ("worst", "The worst predictions"): people[:count],
        ("median", "Predictions around the median"): people[middle : middle + count],
        ("best", "The best predictions"): people[-count:],
    }
    pictures = []
    for (name, title), selected in selections.items():
        if name == "poses":
            sheet = grid([_overlay(person, table, skeleton) for person in selected], columns=6)
            legend = LEGEND
        else:
            sheet = grid([_truth_beside(person, table, skeleton) for person in selected], columns=4)
            legend = f"{SIDES} {LEGEND}"
        values = f"OKS {selected[0].oks:.2f} to {selected[-1].oks:.2f}"
        alt = f"{title}: {len(selected)} poses drawn over the image, {values}"
        picture = Picture(f"{name}.jpg", encode_jpeg(sheet), alt, f"{title}, {values}. {legend}")
        pictures.append(picture)
    return pictures


def _overlay(person: Person, table: CropTable, skeleton: Skeleton) -> Image:
    """The image around the person's box with the predicted pose, its OKS above."""
    view, corner = _view(person, table)
    if person.keypoints is None:
        return caption(enlarge(view, _cell(skeleton)), "no box")
    keypoints = person.keypoints - corner
    overlay = _drawn(person, table, skeleton, view, keypoints, _cell(skeleton))
    return caption(overlay, f"OKS {person.oks:.2f}")


def _truth_beside(person: Person, table: CropTable, skeleton: Skeleton) -> Image:
    """The same view twice, with the annotated and with the predicted pose, under its ids."""
    view, corner = _view(person, table)
    cell = _cell(skeleton)
    height = min(cell, max(1, round(cell * view.shape[0] / view.shape[1])))  # at most cell wide
    truth = table.keypoints[person.row][:, :2].astype(np.float64)
    left = _drawn(person, table, skeleton, view, truth - corner, height)
    right, label = enlarge(view, height), "no box"
    if person.keypoints is not None:
        right = _drawn(person, table, skeleton, view, person.keypoints - corner, height)
        label = f"OKS {person.oks:.2f}"
    panels = [caption(_widened(left), "truth"), caption(_widened(right), label)]
    ids = f"image {table.image_id[person.row]}, person {table.ann_id[person.row]}"
    return caption(np.concatenate(panels, axis=1), ids)


def _cell(skeleton: Skeleton) -> int:
    """Height of the view of one person in pixels."""
    return FINE_CELL if fine_keypoints(skeleton.names) else CELL


def _view(person: Person, table: CropTable) -> tuple[Image, NDArray[np.float64]]:
    """The cached pixels around the person's box, and their upper left corner in the image."""
    crop, corner = table.crop(person.row), table.crop_xy[person.row]
    x, y, w, h = table.bbox_xywh[person.row] - [*corner, 0, 0]
    margin = 0.12 * h
    first = np.maximum([x - margin, y - margin], 0).astype(int)
    last = np.minimum([x + w + margin, y + h + margin], crop.shape[1::-1]).astype(int)
    return crop[first[1] : last[1] + 1, first[0] : last[0] + 1], corner + first


def _drawn(
    person: Person,
    table: CropTable,
    skeleton: Skeleton,
    view: Image,
    keypoints: NDArray[np.float64],
    height: int,
) -> Image:
    """The view enlarged to a height in pixels, with keypoints (K, 2) in its pixels."""
    points = (keypoints + 0.5) * (height / view.shape[0]) - 0.5
    labelled = table.keypoints[person.row][:, 2] > 0
    coarse = skeleton.num_keypoints - len(fine_keypoints(skeleton.names))
    thickness = 2 if coarse <= MAX_KEYPOINTS else 1
    return draw_pose(enlarge(view, height), skeleton, points, labelled, thickness)


def _widened(image: Image) -> Image:
    """The image with dark borders beside it, at least LABEL_WIDTH wide and 4 more pixels."""
    missing = max(4, LABEL_WIDTH - image.shape[1])
    sides = ((0, 0), (missing // 2, missing - missing // 2), (0, 0))
    return np.pad(image, sides, constant_values=24)


def worst_table(people: Sequence[Person], table: CropTable, count: int) -> Table:
    """Annotation id, image id and OKS of the first `count` people."""
    rows = [
        (str(table.ann_id[person.row]), str(table.image_id[person.row]), f"{person.oks:.3f}")
        for person in people[:count]
    ]
    return Table("The worst predictions: COCO ids", ("annotation", "image", "OKS"), rows)


def heatmaps(
    params: Params, skeleton: Skeleton, table: CropTable, people: Sequence[Person], weights: Path
) -> Picture:
    """Input, predicted and target heatmaps of params.report.heatmaps people.

    The people are evenly spaced from the lowest OKS to the highest; no test-time augmentation.
    """
    count = min(params.report.heatmaps, len(people))
    selected = [people[i] for i in np.linspace(0, len(people) - 1, count).round().astype(int)]
    codec = build.codec(params, skeleton)
    rows = np.array([person.row for person in selected], np.intp)
    samples = TestSamples(table, rows, params.augment.bbox_padding, codec)
    items = [samples[i] for i in range(count)]
    predicted = _predict(params, skeleton, weights, np.stack([item["image"] for item in items]))
    targets = codec.render(torch.from_numpy(np.stack([item["target"] for item in items])))
    merged = [codec.heatmaps(maps).amax(dim=1).numpy() for maps in (predicted, targets)]
    strips = []
    for item, person, *over_keypoints in zip(items, selected, *merged, strict=True):
        image = enlarge(item["image"], CELL)
        views = [image, *(draw_heatmap(image, heatmap) for heatmap in over_keypoints)]
        names = (f"OKS {person.oks:.2f}", "predicted", "target")
        captioned = [caption(view, name) for view, name in zip(views, names, strict=True)]
        strips.append(np.concatenate(captioned, axis=1))
    return Picture(
        "heatmaps.jpg",
        encode_jpeg(grid(strips, columns=2)),
        f"Input, predicted heatmaps and target heatmaps of {count} people",
        "Each person three times: the network's input; the maximum over its predicted heatmaps; "
        "the maximum over the target heatmaps. People are evenly spaced from the lowest to the "
        "highest OKS; predicted in one view, without flip.",
    )


def _predict(
    params: Params, skeleton: Skeleton, weights: Path, images: NDArray[np.uint8]
) -> torch.Tensor:
    """The network's output for images (N, h, w, 3), on the CPU, float32."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(params.run.threads)
    torch.use_deterministic_algorithms(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(params, skeleton)
    load_model(model, weights)
    model.to(device).eval()
    with torch.inference_mode():
        inputs = (normalise(torch.from_numpy(image[None]).to(device)) for image in images)
        return torch.cat([model(tensor).float().cpu() for tensor in inputs])
