"""docs/fidelity.md names tests that exist; besides, its rows that no other test shows."""

from __future__ import annotations

import ast
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pose.common.skeleton import COCO_OKS_SIGMAS
from pose.evaluation import coco_metrics
from pose.models.vit import resize_pos_embed
from pose.pretrained.convert import fit_pos_embed

oks = partial(coco_metrics.oks, sigmas=COCO_OKS_SIGMAS)
coco_eval = partial(coco_metrics.coco_eval, sigmas=COCO_OKS_SIGMAS)

ROOT = Path(__file__).resolve().parents[1]
DOC = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"(tests/[\w/]+\.py)::(\w+)", DOC)))


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_named_test_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_row_names_a_test_and_every_column_is_filled() -> None:
    rows = [line for line in DOC.splitlines() if line.startswith("| ") and "---" not in line]
    rows = [row for row in rows if not row.startswith("| point |")]
    assert len(rows) > 20
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 5, row
        assert all(cells), row
        assert all(re.fullmatch(r"tests/[\w/]+\.py::test_\w+", t) for t in cells[4].split(", ")), (
            row
        )


def test_coco_matches_greedily() -> None:
    """Each detection could have a person of its own; the better one takes the other's."""
    unit = np.random.default_rng(0).uniform(20, 80, (17, 2))

    def moved(dx: float) -> np.ndarray:
        return unit + np.array([dx, 0.0])

    truths, found = (0.0, 12.0), (5.0, -5.0)  # shifts in x: the first is nearer to 0 than to 12
    annotations = [
        {
            "id": i + 1,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            "area": 1e4,
            "bbox": [0, 0, 100, 100],
            "num_keypoints": 17,
            "keypoints": np.column_stack([moved(dx), np.full(17, 2)]).ravel().tolist(),
        }
        for i, dx in enumerate(truths)
    ]
    results = [
        {
            "image_id": 1,
            "category_id": 1,
            "keypoints": np.column_stack([moved(dx), np.ones(17)]).ravel().tolist(),
            "score": score,
        }
        for dx, score in zip(found, (0.9, 0.8), strict=True)
    ]
    areas = np.full(2, 1e4)
    truth = np.array([moved(dx) for dx in truths])
    table = [oks(moved(dx), truth, 1e4, areas) for dx in found]
    assert min(table[0][1], table[1][0]) > 0.5  # crosswise both would match at 0.5
    assert table[0][0] > table[0][1]
    assert table[1][1] < 0.5
    truth_file = {
        "images": [{"id": 1, "width": 200, "height": 200, "file_name": "1.jpg"}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }
    assert coco_eval(truth_file, results)["AR50"] == pytest.approx(0.5)
    assert coco_eval(truth_file, results[1:])["AR50"] == pytest.approx(0.5)


def test_a_softmaxed_map_is_never_confident() -> None:
    """The highest that any map in 0..1 of 96 x 128 cells can reach, and what a gaussian does."""
    delta = torch.zeros(128 * 96)
    delta[5000] = 1
    assert float((delta / 0.5).softmax(0).max()) < 1e-3
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(96.0), indexing="ij")
    gaussian = torch.exp(-((x - 40) ** 2 + (y - 60) ** 2) / (2 * 2.0**2))
    assert float((gaussian.flatten() / 0.5).softmax(0).max()) < 1e-3


def test_the_reproduction_in_this_page_runs() -> None:
    """Ten lines of docs/fidelity.md: views 50 cells apart, a loss and a gradient of zero."""
    (block,) = re.findall(r"```python\n(.*?)```", DOC, re.S)
    assert len(block.splitlines()) <= 11
    found: dict = {}
    exec(block, found)
    assert float(found["loss"]) == 0
    assert torch.equal(found["student"].grad, torch.zeros(128, 96))
    assert float(found["bound"]) == pytest.approx(6.01e-4, rel=1e-3)
    assert float(found["pseudo"].max()) < found["bound"] < 0.7
    assert 0.7 / found["bound"] == pytest.approx(1165, abs=1)
    assert float(found["pseudo"].max()) == pytest.approx(2.2e-4, rel=0.02)
    alone = (found["paths"][0].flatten() / 0.5).softmax(0)
    assert float(alone.max()) == pytest.approx(5.97e-4, rel=1e-3)


def test_position_embeddings_are_resized_without_antialiasing() -> None:
    rows = torch.randn(1, 64, 8, generator=torch.Generator().manual_seed(0))
    planes = rows.transpose(1, 2).unflatten(2, (8, 8))

    def resized(antialias: bool) -> torch.Tensor:
        found = F.interpolate(planes, (8, 6), mode="bicubic", antialias=antialias)
        return found.flatten(2).transpose(1, 2)

    found = resize_pos_embed(rows, (8, 8), (8, 6))
    torch.testing.assert_close(found, resized(False))
    assert (found - resized(True)).abs().max() > 0.1


def test_class_rows_are_dropped_or_added() -> None:
    rows = torch.randn(1, 13, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fit_pos_embed(rows, (4, 3), False), rows[:, 1:])
    torch.testing.assert_close(fit_pos_embed(rows, (4, 3), True), rows[:, 1:] + rows[:, :1])
    square = rows[:, :9]  # 3 x 3 without a class row
    torch.testing.assert_close(fit_pos_embed(square, (3, 3), False), square)
