"""Fixtures of all tests: one thread, params.yaml to bend, and a COCO of three images."""

from __future__ import annotations

import gc
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pose  # noqa: F401  # before torch, which reads OpenMP's variables

# isort: split
import cv2
import pytest
import torch
from filelock import FileLock

from pipeline.parsed_yaml import keep_parsed_yaml
from pose.coco.annotations import read_annotations
from pose.coco.detections import read_detections
from pose.coco.files import coco_files
from pose.coco.images import Images
from pose.codecs.udp import UdpCodec
from pose.common.skeleton import COCO_17
from pose.crop_table import CropTable
from pose.crops.shards import CropSettings, plan_shards, write_shard
from pose.models.spec import ModelSpec
from sections import DEFAULT, changed
from tiny_coco import SPLIT, TinyCoco, person, picture

ROOT = Path(__file__).resolve().parents[1]


# Long files first, so that processes end together. While one process runs the chain that the tests
# of tests/pipeline share, in the second of these, another one has the files beside it.
FIRST = ("test_parallel.py", "test_typed.py", "test_setup_environment.py", "pipeline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: [name not in item.path.parts for name in FIRST])


def pytest_collection_finish() -> None:
    """What was imported stays: no later collection of garbage has to look at it."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else nanobind prints what is left at the end


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


@pytest.fixture(scope="session", autouse=True)
def _parsed_yaml(tmp_path_factory: pytest.TempPathFactory) -> None:
    keep_parsed_yaml(tmp_path_factory.mktemp("parsed"))


@pytest.fixture(scope="session")
def kept_operators() -> Iterator[None]:
    """torch.onnx builds its table of operators once, instead of for each export in 0.5 s."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        built_once = staticmethod(cache(ONNXRegistry.from_torchlib))
        patch.setattr(ONNXRegistry, "from_torchlib", built_once)
        yield


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, kept_operators: None) -> Path:
    """The folder of the tiny model's export, written once for all processes; read only."""
    from tiny_export import write_tiny_export

    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    root = shared / "a project"
    with FileLock(shared / "export.lock"):
        if not root.exists():
            written = tmp_path_factory.mktemp("export")
            write_tiny_export(written)
            written.rename(root)
    return root / "exported"


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that would have been waited."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


@pytest.fixture
def params_text() -> str:
    """The project's params.yaml."""
    return (ROOT / "params.yaml").read_text(encoding="utf-8")


@pytest.fixture
def bent_params(tmp_path: Path, params_text: str) -> Callable[[dict[str, str | None]], Path]:
    """Writes a params.yaml with raw YAML values put in: {'train.lr': '1e-05', 'x.y': None: cut}."""

    def write(changes: dict[str, str | None]) -> Path:
        text = params_text
        for key, value in changes.items():
            text = _bend(text, *key.split("."), value)
        path = tmp_path / "params.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def _bend(text: str, section: str, key: str, value: str | None) -> str:
    head, body, tail = re.split(rf"(?ms)^{section}:\n(.*?)(?=^\S|\Z)", text, maxsplit=1)
    body = re.sub(rf"(?m)^  {key}:.*\n(  - .*\n)*", "", body)
    kept = body.splitlines()
    kept += [f"  {key}: {value}"] if value is not None else []
    return f"{head}{section}:\n" + "\n".join(kept) + f"\n{tail}"


@pytest.fixture
def tiny_coco(tmp_path: Path) -> TinyCoco:
    """Three images; six persons, among them one without keypoints, one of 8, one over the border.

    Besides, a crowd and an annotation of another category, which nobody should meet again.
    """
    root = tmp_path / "coco"
    sizes = {1: (160, 120), 2: (120, 200), 3: (200, 160)}
    images = [
        {"id": i, "file_name": f"{i:012d}.jpg", "width": w, "height": h}
        for i, (w, h) in sizes.items()
    ]
    annotations = [
        person(15, 3, [20.5, 30.25, 60, 100], 17),
        person(11, 1, [30, 10, 50, 100], 17),
        person(12, 1, [100, 20, 40, 80], 0),
        person(13, 2, [20, 20, 80, 160], 17),
        person(14, 2, [60, 90, 80, 150], 8),
        person(16, 3, [100, 20, 70, 120], 12),
        person(17, 3, [0, 0, 200, 160], 0, iscrowd=1),
        {"id": 18, "image_id": 3, "category_id": 2, "bbox": [1, 2, 3, 4]},
    ]
    category = {"id": 1, "name": "person", "supercategory": "person", "keypoints": [*COCO_17.names]}
    raw = {
        "images": images,
        "annotations": annotations,
        "categories": [category, {"id": 2, "name": "dog"}],
    }
    coco = TinyCoco(root, raw)
    (root / "annotations").mkdir(parents=True)
    (root / SPLIT).mkdir()
    coco.save()
    for i, (w, h) in sizes.items():
        coco.image_path(i).write_bytes(cv2.imencode(".jpg", picture(i, w, h))[1].tobytes())
    return coco


@pytest.fixture
def crop_settings() -> CropSettings:
    """A small input of the official aspect."""
    return CropSettings(
        codec=UdpCodec("gaussian", (48, 64), (24, 32), 1.5, 0.0546875, COCO_17.flip_indices),
        skeleton=COCO_17,
        augment=changed(
            DEFAULT.augment,
            bbox_padding=1.25,
            half_body_padding=1.5,
            scale_factor=0.3,
            shift_factor=0.1,
            rotate_deg=30.0,
        ),
        jpeg_quality=95,
    )


@pytest.fixture
def crop_table(tmp_path: Path, tiny_coco: TinyCoco, crop_settings: CropSettings) -> CropTable:
    """The cache of tiny_coco, in two shards."""
    folder = tmp_path / "cache"
    folder.mkdir()
    images = Images(coco_files(tiny_coco.root, SPLIT))
    persons = read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None).persons
    for index, shard in enumerate(plan_shards(persons, 4)):
        assert not write_shard(folder / f"{index:05d}.arrow", images, shard, crop_settings).bad
    return CropTable(folder)


@pytest.fixture
def tiny_model_spec() -> ModelSpec:
    """A model of milliseconds: a grid of 3 x 4 tokens, heatmaps of 12 x 16 cells."""
    return ModelSpec(
        input_wh=(24, 32),
        patch_size=8,
        patch_padding=2,
        embed_dim=16,
        depth=2,
        num_heads=2,
        drop_path=0.0,
        head="sapiens",
        deconv_channels=(8, 8),
        conv_channels=(8,),
        grad_checkpointing=False,
        maps_per_keypoint=1,
        num_keypoints=17,
    )


@pytest.fixture
def truth(tiny_coco: TinyCoco) -> dict[str, Any]:
    """COCO's ground truth of tiny_coco."""
    found = read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None)
    return {
        "images": found.images,
        "annotations": found.annotations,
        "categories": [found.category.entry],
    }


@pytest.fixture
def detected_table(tmp_path: Path, tiny_coco: TinyCoco, crop_settings: CropSettings) -> CropTable:
    """Two boxes round person 11, the second nearer; half a one round 13; one of nothing."""
    boxes = [
        (1, [35, 15, 50, 100], 0.9),
        (1, [31, 10, 50, 100], 0.5),
        (2, [20, 20, 80, 70], 0.8),
        (2, [1, 2, 9, 9], 0.7),
    ]
    keys = ("image_id", "bbox", "score")
    records = [dict(zip(keys, one, strict=True), category_id=1) for one in boxes]
    (tmp_path / "boxes.json").write_text(json.dumps(records))
    truth = read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None)
    persons = read_detections(tmp_path / "boxes.json", truth.images, truth.category).persons
    (tmp_path / "detected").mkdir()
    found = Images(coco_files(tiny_coco.root, SPLIT))
    write_shard(tmp_path / "detected" / "0.arrow", found, persons, crop_settings)
    return CropTable(tmp_path / "detected")
