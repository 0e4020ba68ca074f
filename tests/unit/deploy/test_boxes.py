"""Boxes of a picture: three forms of a file, found by name or number, and what cannot serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loopback import failure
from pose.coco.images import BadImageError
from pose.common.errors import PoseError
from pose.deploy.boxes import BoxFile, whole_image

IMAGES = [
    {"id": 7, "file_name": "a.jpg", "width": 100, "height": 80},
    {"id": 8, "file_name": "b.jpg", "width": 100, "height": 80},
]
PICTURE = np.zeros((80, 100, 3), np.uint8)


def annotation(**values: Any) -> dict:
    return {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]} | values


def annotated(*annotations: dict) -> dict:
    return {"images": IMAGES, "annotations": [*annotations]}


def read(folder: Path, content: Any, *category_ids: int) -> BoxFile:
    path = folder / "boxes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return BoxFile(path, category_ids or (1,))


def test_by_name(tmp_path: Path) -> None:
    boxes = read(tmp_path, {"a.jpg": [[1, 2, 3, 4], [5, 6, 7, 8.5]], "b.jpg": []})
    found, scores = boxes(PICTURE, "holiday/a.jpg")
    assert found.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8.5]]
    assert scores.tolist() == [1, 1]
    assert boxes(PICTURE, "b.jpg")[0].shape == (0, 4)
    with pytest.raises(BadImageError, match=r"^has no entry in boxes.json$"):
        boxes(PICTURE, "c.jpg")


def test_the_most_precise_name_counts(tmp_path: Path) -> None:
    boxes = read(tmp_path, {"x/a.jpg": [[1, 1, 1, 1]], "a.jpg": [[2, 2, 2, 2]]})
    assert boxes(PICTURE, "x/a.jpg")[0][0, 0] == boxes(PICTURE, "data/x/a.jpg")[0][0, 0] == 1
    assert boxes(PICTURE, "y/a.jpg")[0][0, 0] == 2


def test_the_folder_that_the_run_is_in_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = read(tmp_path, {"b/1.jpg": [[1, 1, 1, 1]], "1.jpg": [[2, 2, 2, 2]]})
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    assert boxes(PICTURE, "1.jpg")[0][0, 0] == 1


def test_a_file_name_alone_is_enough_if_one_entry_has_it(tmp_path: Path) -> None:
    content = {"b/1.jpg": [[1, 1, 1, 1]], "b/2.jpg": [[2, 2, 2, 2]], "c/2.jpg": [[3, 3, 3, 3]]}
    images = [IMAGES[0] | {"id": i, "file_name": name} for i, name in enumerate(content)]
    for form in (content, {"images": images, "annotations": [annotation(image_id=0)]}):
        boxes = read(tmp_path, form)
        assert boxes(PICTURE, "data/1.jpg")[0][0, 0] == 1
        with pytest.raises(BadImageError, match=r"; 2 entries end in 2\.jpg, but none"):
            boxes(PICTURE, "data/2.jpg")


def test_a_frame_has_its_own_boxes_or_its_videos(tmp_path: Path) -> None:
    boxes = read(tmp_path, {"clip.avi": [[1, 1, 1, 1]], "clip.avi/3": [[2, 2, 2, 2]]})
    for frame, x in ((2, 1), (3, 2)):
        assert boxes(PICTURE, "x/clip.avi", frame)[0][0, 0] == x


def test_a_stream_goes_by_its_address(tmp_path: Path) -> None:
    boxes = read(tmp_path, {"yard": [[1, 1, 1, 1]], "rtsp://10.0.0.7/yard/2": [[2, 2, 2, 2]]})
    assert [boxes(PICTURE, "rtsp://10.0.0.7/yard", frame)[0][0, 0] for frame in (1, 2)] == [1, 2]


def test_a_frame_has_no_boxes_of_another_video(tmp_path: Path) -> None:
    boxes = read(tmp_path, {"other.avi/3": [[1, 1, 1, 1]], "y/clip.avi/4": [[2, 2, 2, 2]]})
    assert boxes(PICTURE, "x/clip.avi", 4)[0][0, 0] == 2
    said = r"^has no entry in boxes.json for frame 3; without people it is \[\]$"
    with pytest.raises(BadImageError, match=said):
        boxes(PICTURE, "x/clip.avi", 3)


def test_a_path_of_windows(tmp_path: Path) -> None:
    boxes = read(tmp_path, {"C:\\photos\\a.jpg": [[1, 1, 1, 1]]})
    assert boxes(PICTURE, "photos/a.jpg")[0].tolist() == [[1, 1, 1, 1]]


def test_annotations(tmp_path: Path) -> None:
    """Clipped as evaluate's boxes; crowds, other categories and what lies outside left out."""
    boxes = read(
        tmp_path,
        annotated(
            annotation(bbox=[-10, 60, 50, 40]),
            annotation(iscrowd=1),
            annotation(category_id=2),
            annotation(bbox=[200, 200, 5, 5]),
        ),
    )
    assert boxes(PICTURE, "a.jpg")[0].tolist() == [[0, 60, 40, 19]]
    assert boxes(PICTURE, "b.jpg")[0].shape == (0, 4)
    with pytest.raises(BadImageError):
        boxes(PICTURE, "c.jpg")


def test_results_go_by_number(tmp_path: Path) -> None:
    records = [
        annotation(image_id=139, score=0.25),
        annotation(image_id=139, score=0.5, category_id=3),
        annotation(image_id=139, score=0.75, bbox=[0, 0, 0, 0]),
        annotation(image_id=139, score=0.75, bbox=[1, 2, 3, 0]),
    ]
    boxes = read(tmp_path, records)
    found, scores = boxes(PICTURE, "val2017/000000000139.jpg")
    assert (found.tolist(), scores.tolist()) == ([[1, 2, 3, 4]], [0.25])
    assert boxes(PICTURE, "000000000140.jpg")[0].shape == (0, 4)  # the detector found nobody
    with pytest.raises(BadImageError, match="has no image id, which COCO results need"):
        boxes(PICTURE, "me.jpg")


@pytest.mark.parametrize("box", [[0.1, 0.1, 0.3, 0.5], [5000, 0, 9, 9], [0, -9, 9, 9]])
def test_a_box_must_lie_in_the_picture(tmp_path: Path, box: list[float]) -> None:
    inside = [-5.0, 10, 300, 100]
    assert read(tmp_path, {"a.jpg": [inside]})(PICTURE, "a.jpg")[0].tolist() == [inside]
    with pytest.raises(BadImageError, match=r"has 100 x 80 pixels, and a box .* outside of them"):
        read(tmp_path, {"a.jpg": [inside, box]})(PICTURE, "a.jpg")


def test_annotations_of_another_size(tmp_path: Path) -> None:
    boxes = read(tmp_path, annotated(annotation()))
    said = r"^has 50 x 40 pixels, but boxes\.json has boxes for 100 x 80$"
    with pytest.raises(BadImageError, match=said):
        boxes(PICTURE[::2, ::2], "a.jpg")


def test_results_of_other_pictures(tmp_path: Path) -> None:
    records = [annotation(image_id=number, score=0.5) for number in (11, 7, 8, 9, 10)]
    boxes = read(tmp_path, records)
    assert boxes.unlisted_line(["x/000139.jpg", "140.jpg", "me.jpg"]) == (
        "no image_id (7, 8, 9, ...) is the number of a picture (139, 140): no boxes for any of them"
    )
    assert boxes.unlisted_line(["139.jpg", "0007.jpg"]) == boxes.unlisted_line(["me.jpg"]) == ""
    assert read(tmp_path, {"a.jpg": []}).unlisted_line(["139.jpg"]) == ""


def test_an_image_id_is_of_one_picture(tmp_path: Path) -> None:
    entry = {"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}
    raw = {"images": [entry, entry | {"file_name": "b.jpg"}], "annotations": []}
    with pytest.raises(PoseError, match="two images have the id 1"):
        read(tmp_path, raw)


def test_a_frame_goes_by_its_own_number_never_by_its_videos(tmp_path: Path) -> None:
    boxes = read(tmp_path, [annotation(image_id=number, score=0.5) for number in (5, 299)])
    assert [len(boxes(PICTURE, "x/5.mp4", frame)[0]) for frame in (5, 299, 300)] == [1, 1, 0]


def test_image_ids_as_text(tmp_path: Path) -> None:
    raw = annotated(annotation(image_id="7"), annotation(image_id=8.0, bbox=[5, 5, 5, 5]))
    raw["images"] = [IMAGES[0], IMAGES[1] | {"id": "8"}]
    boxes = read(tmp_path, raw)
    assert [boxes(PICTURE, name)[0][0, 0] for name in ("a.jpg", "b.jpg")] == [1, 5]


def with_categories(*ids: Any) -> list[dict]:
    """Boxes of image 7 at x = 0, 1, ... with these category ids, also as results."""
    return [annotation(category_id=c, bbox=[x, 2, 3, 4], score=0.5) for x, c in enumerate(ids)]


@pytest.mark.parametrize("as_results", [False, True])
def test_boxes_of_all_categories_of_the_model(tmp_path: Path, as_results: bool) -> None:
    records = with_categories(1, 2, 3, 9, 4, 9)
    boxes = read(tmp_path, records if as_results else annotated(*records), 1, 2, 3)
    found, _ = boxes(PICTURE, "7.jpg" if as_results else "a.jpg")
    assert found[:, 0].tolist() == [0, 1, 2]
    assert boxes.left_out_line() == "left out 3 boxes of other categories (ids 4, 9)"


def test_category_ids_as_text(tmp_path: Path) -> None:
    records = with_categories("1", 1.0, "2")
    boxes = read(tmp_path, annotated(records[0] | {"iscrowd": "0"}, *records[1:]))
    assert boxes(PICTURE, "a.jpg")[0][:, 0].tolist() == [0, 1]
    assert boxes.left_out == {2: 1}


@pytest.mark.parametrize("as_results", [False, True])
def test_only_boxes_of_other_categories(tmp_path: Path, as_results: bool) -> None:
    records = with_categories(3, 3, 2)
    said = failure(read, tmp_path, records if as_results else annotated(*records), 1, 7)
    assert said.endswith(
        "boxes.json: no usable box of the model's categories (ids 1, 7); left out 3 boxes of other "
        "categories (ids 2, 3); correct category_id, or give another file"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "boxes.json: not valid JSON"),
        ("3", "expected boxes by file name, found 3"),
        ({"a.jpg": 5}, "'a.jpg' has 5, expected a list of boxes"),
        ({"a.jpg": [[1, 2, 3]]}, "'a.jpg', box 0 is [1, 2, 3], expected 4 finite numbers"),
        ({"a.jpg": [[1, 2, 3, 4], [1, 2, 0, 4]]}, "'a.jpg', box 1 is [1, 2, 0, 4]"),
        ('{"a.jpg": [[1, 2, NaN, 4]]}', "'a.jpg', box 0 is [1, 2, nan, 4]"),
        (annotated(annotation(image_id=9)), "annotation 1 names image 9, which is not in 'images'"),
        (annotated(annotation(bbox=None)), "annotation 1 is None, expected 4 finite numbers"),
        ({"images": [{"id": 1}], "annotations": []}, "image 1 has file_name None; correct it"),
        (
            {"images": [IMAGES[0] | {"width": None}], "annotations": []},
            "image 7 has width None, exp",
        ),
        ({"images": IMAGES, "annotations": [4]}, "an annotation is 4, expected an object"),
        (annotated(annotation(category_id=None)), "annotation 1 has category_id None, expected an"),
        (annotated(annotation(image_id=[1])), "annotation 1 has image_id [1], expected an integer"),
        (annotated(annotation(image_id=None)), "annotation 1 has image_id None, expected an"),
        ({"images": [{"id": [1]}], "annotations": []}, "an image has id [1], expected an integer"),
        ([{"image_id": 1}], "boxes.json: record 0 has category_id None"),
    ],
)
def test_files_that_cannot_serve(tmp_path: Path, content: Any, expected: str) -> None:
    assert expected in failure(read, tmp_path, content)


def test_no_file(tmp_path: Path) -> None:
    assert "no such file; --boxes takes" in failure(BoxFile, tmp_path / "boxes.json", (1,))


def test_the_whole_image() -> None:
    boxes, scores = whole_image(np.zeros((40, 60, 3), np.uint8))
    assert (boxes.tolist(), scores.tolist()) == ([[0, 0, 60, 40]], [1])
