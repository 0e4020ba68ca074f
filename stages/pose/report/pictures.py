"""The report's pictures of persons: predicted poses by OKS, and heatmaps beside their targets.

No stage itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pose.common.files import read_json
from pose.common.params import Params
from pose.common.skeleton import Skeleton
from pose.crop_table import CropTable
from pose.data import build
from pose.data.samples import TestSamples
from pose.draw import caption, draw_heatmap, draw_pose, encode_jpeg, enlarge, grid
from pose.models.build import build_model
from pose.models.checkpoint import load_model
from pose.models.vit import normalise
from pose.report.page import Picture

CELL = 220  # pixels, height of a person in a picture
SIDES = "The person's left is blue, right is orange; only labelled keypoints are drawn."


@dataclass(frozen=True)
class Person:
    """A labelled person of val: its row in the cache, the pose found (K, 2) or None, its OKS."""

    row: int
    keypoints: NDArray[np.float64] | None
    oks: float


def read_people(path: Path) -> list[Person]:
    """Each labelled person of val with its prediction, the lowest OKS first."""
    people = [
        Person(
            one["row"], None if one["keypoints"] is None else np.array(one["keypoints"]), one["oks"]
        )
        for one in read_json(path)
    ]
    return sorted(people, key=lambda person: (person.oks, person.row))


def overlays(
    people: Sequence[Person], table: CropTable, skeleton: Skeleton, count: int
) -> list[Picture]:
    """`count` persons each: drawn at random, the worst, around the median, the best."""
    drawn = np.sort(np.random.default_rng(0).permutation(len(people))[:count])
    middle = max(0, len(people) // 2 - count // 2)
    chosen = {
        ("poses", "Persons drawn at random"): [people[i] for i in drawn],
        ("worst", "The worst"): people[:count],
        ("median", "Around the median"): people[middle : middle + count],
        ("best", "The best"): people[-count:],
    }
    return [
        _overlay(f"{name}.jpg", title, some, table, skeleton)
        for (name, title), some in chosen.items()
    ]


def _overlay(
    name: str, title: str, people: Sequence[Person], table: CropTable, skeleton: Skeleton
) -> Picture:
    sheet = grid([_view(person, table, skeleton) for person in people], columns=6)
    values = f"OKS {people[0].oks:.2f} to {people[-1].oks:.2f}"
    alt = f"{title}: {len(people)} persons with predicted poses, {values}"
    return Picture(name, encode_jpeg(sheet), alt, f"{title}, {values}. {SIDES}")


def _view(person: Person, table: CropTable, skeleton: Skeleton) -> NDArray[np.uint8]:
    """The person's surroundings with the predicted pose, its OKS above."""
    crop, corner = table.crop(person.row), table.crop_xy[person.row]
    x, y, w, h = table.bbox_xywh[person.row] - [*corner, 0, 0]
    margin = 0.12 * h
    first = np.maximum([x - margin, y - margin], 0).astype(int)
    last = np.minimum([x + w + margin, y + h + margin], crop.shape[1::-1]).astype(int)
    view = crop[first[1] : last[1] + 1, first[0] : last[0] + 1]
    if person.keypoints is None:
        return caption(enlarge(view, CELL), "no box")
    points = (person.keypoints - corner - first + 0.5) * (CELL / view.shape[0]) - 0.5
    labelled = table.keypoints[person.row][:, 2] > 0
    drawn = draw_pose(enlarge(view, CELL), skeleton, points, labelled, 2)
    return caption(drawn, f"OKS {person.oks:.2f}")


def heatmaps(
    params: Params, skeleton: Skeleton, table: CropTable, people: Sequence[Person], weights: Path
) -> Picture:
    """Input, predicted maps and target of params.report.heatmaps persons, from worst to best OKS.

    The model sees each once, without flip test.
    """
    count = min(params.report.heatmaps, len(people))
    chosen = [people[i] for i in np.linspace(0, len(people) - 1, count).round().astype(int)]
    codec = build.codec(params, skeleton)
    rows = np.array([person.row for person in chosen], np.intp)
    samples = TestSamples(table, rows, params.augment.bbox_padding, codec)
    items = [samples[i] for i in range(count)]
    found = _predicted(params, skeleton, weights, np.stack([item["image"] for item in items]))
    targets = codec.render(torch.from_numpy(np.stack([item["target"] for item in items])))
    both = [codec.heights(maps).amax(dim=1).numpy() for maps in (found, targets)]
    strips = [
        _strip(item["image"], person, *maps)
        for item, person, *maps in zip(items, chosen, *both, strict=True)
    ]
    return Picture(
        "heatmaps.jpg",
        encode_jpeg(grid(strips, columns=2)),
        f"Input, predicted heatmaps and target heatmaps of {count} persons",
        "Each person three times: the network's input; over it the highest of its predicted "
        "heatmaps; over it the target. Evenly from the worst OKS to the best; one view, no flip.",
    )


def _predicted(
    params: Params, skeleton: Skeleton, weights: Path, images: NDArray[np.uint8]
) -> torch.Tensor:
    """Maps of images (N, h, w, 3), on the CPU, float32."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(params.run.threads)
    torch.use_deterministic_algorithms(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(params, skeleton)
    load_model(model, weights)
    model.to(device).eval()
    with torch.inference_mode():
        views = (normalise(torch.from_numpy(image[None]).to(device)) for image in images)
        return torch.cat([model(view).float().cpu() for view in views])


def _strip(image: NDArray[np.uint8], person: Person, *maps: NDArray[Any]) -> NDArray[np.uint8]:
    large = enlarge(image, CELL)
    views = [large, *(draw_heatmap(large, heatmap) for heatmap in maps)]
    names = (f"OKS {person.oks:.2f}", "predicted", "target")
    return np.concatenate(
        [caption(view, name) for view, name in zip(views, names, strict=True)], axis=1
    )


def worst_rows(people: Sequence[Person], table: CropTable, count: int) -> list[tuple[str, ...]]:
    """Annotation id, image id and OKS of the first `count` persons."""
    return [
        (str(table.ann_id[one.row]), str(table.image_id[one.row]), f"{one.oks:.3f}")
        for one in people[:count]
    ]
