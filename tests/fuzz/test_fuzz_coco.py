"""Annotations, detections, zips and pictures spoilt in any way: named, left out, or refused."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import strategies as st

from build_cache import ground_truth
from fuzz.corrupt import corrupted_bytes, corrupted_json, fuzz, inputs, refused, refused_or_fine
from pose.coco.annotations import Person, read_annotations
from pose.coco.category import Category
from pose.coco.decode import decode_image
from pose.coco.detections import read_detections
from pose.coco.files import SplitFiles, coco_files
from pose.coco.images import BadImageError, Images
from pose.common.skeleton import COCO_17, COCO_OKS_SIGMAS, build_skeleton
from pose.crop_table import CropTable
from pose.crops.coverage import measure_coverage
from pose.crops.shards import CropSettings, plan_shards, psnr_db, write_shard
from pose.crops.splits import training_persons
from pose.evaluation.coco_metrics import coco_eval
from pose.fetch.checksums import ZipChecksums
from sections import DEFAULT, changed
from tiny_coco import SPLIT, TinyCoco, picture

HALF = changed(DEFAULT.data, labelled_fraction=0.5, unlabelled=("boxes", "rest"))


def cached(folder: Path, images: Images, persons: list[Person], spec: CropSettings) -> CropTable:
    """What build_cache makes of the persons."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*"):
        old.unlink()
    errors: list[float] = []
    for index, shard in enumerate(plan_shards(persons, 4)):
        errors += write_shard(folder / f"{index}.arrow", images, shard, spec).squared_errors
    if errors:
        psnr_db(errors)
    return CropTable(folder)


def use_annotations(root: Path, spec: CropSettings) -> None:
    """All that is done with an annotation file, up to COCOeval's ground truth."""
    found = read_annotations(coco_files(root, SPLIT), DEFAULT.data, None)
    names, limbs = found.category.names, found.category.limbs
    build_skeleton(names, limbs, None, None, None)
    training_persons(found, HALF)
    with Images(coco_files(root, SPLIT)) as images:
        table = cached(root / "cache", images, found.persons, spec)
    for row in range(len(table)):
        table.crop(row)
    if len(table):
        measure_coverage(table, spec.codec.heatmap_size)
    truth = ground_truth(found, {image["id"] for image in found.images})
    json.dumps(truth, allow_nan=False)
    if len(names) == 17 and found.persons:
        person = found.persons[0]
        pose = {"keypoints": [1.0] * 51, "score": 0.5, "category_id": found.category.id}
        coco_eval(truth, [{"image_id": person.image_id, **pose}], COCO_OKS_SIGMAS)


@inputs(20, 3000)
def test_annotation_values(
    bounded: Path, tiny_coco: TinyCoco, crop_settings: CropSettings, examples: int
) -> None:
    def check(value: Any) -> None:
        tiny_coco.json_path.write_text(json.dumps(value))
        with refused_or_fine():
            use_annotations(tiny_coco.root, crop_settings)

    fuzz(examples, corrupted_json(tiny_coco.raw), check)


@inputs(10, 1500)
def test_annotation_bytes(
    bounded: Path, tiny_coco: TinyCoco, crop_settings: CropSettings, examples: int
) -> None:
    def check(content: bytes) -> None:
        tiny_coco.json_path.write_bytes(content)
        with refused_or_fine():
            use_annotations(tiny_coco.root, crop_settings)

    fuzz(examples, corrupted_bytes(tiny_coco.json_path.read_bytes()), check)


HOSTILE = {
    "deep": '{"images": ' + "[" * 100_000,
    "deep and closed": '{"images": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "long number": '{"images": [' + "9" * 10_000 + "]}",
    "no map": "[]",
    "nothing": "null",
    "no text": b"\xff\xfe\0",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_json(bounded: Path, tiny_coco: TinyCoco, kind: str) -> None:
    content = HOSTILE[kind]
    tiny_coco.json_path.write_bytes(content if isinstance(content, bytes) else content.encode())
    files = coco_files(tiny_coco.root, SPLIT)
    assert files.name in refused(read_annotations, files, DEFAULT.data, None)
    path = bounded / "boxes.json"
    path.write_bytes(tiny_coco.json_path.read_bytes())
    assert path.name in refused(read_detections, path, [], PERSON)


# ---------------------------------------------------------------------------------- detections

PERSON = Category(1, COCO_17.names, (), {"id": 1}, frozenset({1}))


@inputs(20, 3000)
def test_detections(
    bounded: Path, tiny_coco: TinyCoco, crop_settings: CropSettings, examples: int
) -> None:
    path, images = bounded / "boxes.json", Images(coco_files(tiny_coco.root, SPLIT))
    good = [
        {"image_id": one["image_id"], "category_id": 1, "bbox": one["bbox"], "score": 0.9}
        for one in tiny_coco.raw["annotations"][:5]
    ]

    def check(value: Any) -> None:
        path.write_text(json.dumps(value))
        with refused_or_fine():
            found = read_detections(path, tiny_coco.raw["images"], PERSON)
            table = cached(bounded / "cache", images, found.persons, crop_settings)
            for row in range(len(table)):
                table.crop(row)

    fuzz(examples, corrupted_json(good) | corrupted_bytes_of_json(good), check)


@st.composite
def corrupted_bytes_of_json(draw: st.DrawFn, value: Any) -> Any:
    """What still is JSON of spoilt text; else some text."""
    content = draw(corrupted_bytes(json.dumps(value).encode()))
    try:
        return json.loads(content)
    except ValueError:
        return content.decode(errors="replace")


# ---------------------------------------------------------------------------------- zips


@inputs(20, 3000)
def test_zips(bounded: Path, tiny_coco: TinyCoco, examples: int) -> None:
    root = tiny_coco.zipped(bounded / "zips")
    paths = [root / f"{SPLIT}.zip", root / "annotations_trainval2017.zip"]
    contents = [path.read_bytes() for path in paths]
    names = [image["file_name"] for image in tiny_coco.raw["images"]]

    def check(spoilt: tuple[int, bytes]) -> None:
        which, content = spoilt
        for path, good in zip(paths, contents, strict=True):
            path.write_bytes(content if path == paths[which] else good)
        with refused_or_fine():
            read_annotations(coco_files(root, SPLIT), DEFAULT.data, None)
        with refused_or_fine(), Images(coco_files(root, SPLIT)) as images:
            for name in names:
                with suppressed_bad_image():
                    decode_image(images.read(name), (160, 120))
        ZipChecksums(SPLIT, 0, None).mismatch(paths[which])

    spoilers = [st.tuples(st.just(i), corrupted_bytes(c[-900:])) for i, c in enumerate(contents)]
    whole = st.one_of(*spoilers).map(lambda s: (s[0], contents[s[0]][:-900] + s[1]))
    fuzz(examples, whole, check)


class suppressed_bad_image:  # noqa: N801  # reads as a statement
    """A BadImageError of one line is fine."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if kind is None or not issubclass(kind, BadImageError):
            return False
        assert len(str(error)) < 400, str(error)
        return True


def zip_files(root: Path) -> SplitFiles:
    return SplitFiles(SPLIT, root / "unused.json", root / f"{SPLIT}.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_members(bounded: Path, method: int) -> None:
    """Each way of packing has its own exceptions."""
    path = bounded / f"{SPLIT}.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(f"{SPLIT}/a.jpg", b"abc" * 1000)
    good = path.read_bytes()
    for place in range(38, 38 + 60):
        path.write_bytes(good[:place] + b"\xff\0\xff\0" + good[place + 4 :])
        with (
            refused_or_fine(),
            Images(zip_files(bounded)) as images,
            suppressed_bad_image(),
        ):
            images.read("a.jpg")


def test_members_that_lie_outside(bounded: Path) -> None:
    """A name is a key of the zip, never a path."""
    with zipfile.ZipFile(bounded / f"{SPLIT}.zip", "w") as archive:
        for name in (f"{SPLIT}/../../x", "/etc/x", f"{SPLIT}/a.jpg"):
            archive.writestr(name, b"x")
    with Images(zip_files(bounded)) as images:
        assert images.read("a.jpg") == b"x"
    assert "outside" in str(ZipChecksums(SPLIT, 0, None).mismatch(bounded / f"{SPLIT}.zip"))


def test_a_bomb(bounded: Path) -> None:
    path = bounded / f"{SPLIT}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{SPLIT}/a.jpg", b"x" * 1000)
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\1\2")
    content[directory + 24 : directory + 28] = (200 << 20).to_bytes(4, "little")
    path.write_bytes(content)
    with (
        Images(zip_files(bounded)) as images,
        pytest.raises(BadImageError, match="claims 209,715,200"),
    ):
        images.read("a.jpg")


# ---------------------------------------------------------------------------------- pictures


def encoded(kind: str) -> bytes:
    image = PIL.Image.fromarray(picture(1, 60, 40)[..., ::-1])
    stream = io.BytesIO()
    image.save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind.upper()))
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["jpg", "png", "bmp", "gif", "tif", "webp"])
@inputs(15, 1000)
def test_pictures(bounded: Path, kind: str, examples: int) -> None:
    def check(content: bytes) -> None:
        with warnings.catch_warnings(), suppressed_bad_image():
            warnings.simplefilter("ignore")
            image, _ = decode_image(content, (60, 40))
            assert image.shape == (40, 60, 3)

    fuzz(examples, corrupted_bytes(encoded(kind)), check)


def test_a_png_whose_chunk_claims_two_gigabytes(bounded: Path) -> None:
    content = bytearray(encoded("png"))
    at = content.index(b"IDAT") - 4
    content[at : at + 4] = (0x7FFFFFFF).to_bytes(4, "big")
    with pytest.raises(BadImageError, match="not a readable image"):
        decode_image(bytes(content), (60, 40))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("width", "height"), [(65500, 65500), (30000, 30000), (1 << 20, 1 << 20)])
def test_a_picture_of_absurd_size(bounded: Path, width: int, height: int) -> None:
    """The annotations and the header agree, and still nothing of that size is allocated."""
    content = bytearray(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = bytes([height >> 8 & 255, height & 255, width >> 8 & 255, width & 255])
    with pytest.raises(BadImageError):
        decode_image(bytes(content), (width, height))
