"""What predict.py writes: records, the table, ids and names."""

from __future__ import annotations

import gc
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pose.common.files import write_json
from pose.deploy.media import Stream
from pose.deploy.people import People
from pose.deploy.results import FILES, ResultsWriter, columns, numeric_ids, overlay_paths
from pose.deploy.video import Frame
from tiny_model import tiny_manifest


def test_names_of_overlays_are_distinct() -> None:
    paths = [Path(name) for name in ("x/a.jpg", "y/a.png", "y/a.avi", "y/a-2.png", "z/a.jpg")]
    found = overlay_paths(paths, Path("o"))
    names = ["a.jpg", "a-2.jpg", "a.mp4", "a-2-2.jpg", "a-3.jpg"]
    assert [path.name for path in found.values()] == names
    streams = overlay_paths([Stream("0"), Stream("rtsp://h/a"), Path("a.avi")], Path("o"))
    assert [path.name for path in streams.values()] == ["camera-0.mp4", "a.mp4", "a-2.mp4"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["000139.jpg", "7.png"], [139, 7]),
        (["7.jpg", "007.jpg"], []),
        (["7.jpg", "a.jpg"], []),
        (["7.jpg", "8.avi"], []),
        ([], []),
    ],
)
def test_ids_are_the_names_numbers_if_all_have_one(names: list[str], expected: list[int]) -> None:
    assert list(numeric_ids([Path(name) for name in names]).values()) == expected


NAMES = tiny_manifest().skeleton.names


def people(count: int, *ids: int) -> People:
    rng = np.random.default_rng(count)
    keypoints, scores = rng.uniform(0, 50, (count, 17, 2)), rng.uniform(0, 1, (count, 17))
    track_ids = np.array(ids) if ids else None
    return People(rng.uniform(1, 50, (count, 4)), rng.uniform(0, 1, count), keypoints, scores,
                  track_ids)  # fmt: skip


def frame(index: int) -> Frame:
    return Frame(index, index / 8, np.zeros((48, 64, 3), np.uint8))


def written(folder: Path) -> None:
    """A picture with two people, a frame without any, and one with a tracked person."""
    with ResultsWriter(folder, tiny_manifest()) as writer:
        writer.add_picture("ä.jpg", 7, np.zeros((30, 40, 3), np.uint8), people(2))
        writer.add_frame("x/clip.mp4", frame(0), people(0))
        writer.add_frame("x/clip.mp4", frame(3), people(1, 12))
        assert (writer.pictures, writer.poses) == (3, 3)
        assert not (folder / "results.json").exists()


def test_files_are_those_of_write_json(tmp_path: Path) -> None:
    written(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    for name in ("results.json", "images.json"):
        content = (tmp_path / name).read_bytes()
        write_json(tmp_path / "again.json", json.loads(content))
        assert content == (tmp_path / "again.json").read_bytes()


def test_images_have_the_time_of_frames(tmp_path: Path) -> None:
    written(tmp_path)
    assert json.loads((tmp_path / "images.json").read_text(encoding="utf-8")) == {
        "images": [
            {"id": 7, "file_name": "ä.jpg", "width": 40, "height": 30},
            {"id": 2, "file_name": "x/clip.mp4/0", "frame": 0, "seconds": 0.0, "width": 64,
             "height": 48},
            {"id": 3, "file_name": "x/clip.mp4/3", "frame": 3, "seconds": 0.375, "width": 64,
             "height": 48},
        ]
    }  # fmt: skip


def test_results_and_table_hold_the_same(tmp_path: Path) -> None:
    written(tmp_path)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [record.get("track_id") for record in results] == [None, None, 12]
    table = pd.read_csv(tmp_path / "results.csv")
    assert table.columns.tolist() == columns(NAMES)
    assert table.file_name.tolist() == ["ä.jpg", "ä.jpg", "x/clip.mp4/3"]
    assert table[["frame", "seconds", "track_id"]].iloc[2].tolist() == [3, 0.375, 12]
    assert table[["frame", "seconds", "track_id"]].iloc[:2].isna().all(axis=None)
    np.testing.assert_allclose(table.score, [record["score"] for record in results])
    np.testing.assert_allclose(
        table.loc[:, "nose_x":], [record["keypoints"] for record in results], rtol=0
    )
    boxes = table[["box_x", "box_y", "box_width", "box_height"]]
    np.testing.assert_allclose(boxes.iloc[2], people(1).boxes_xywh[0], atol=0.006)


def test_without_people_the_files_are_valid(tmp_path: Path) -> None:
    with ResultsWriter(tmp_path, tiny_manifest()) as writer:
        writer.add_frame("clip.mp4", frame(0), people(0))
    assert json.loads((tmp_path / "results.json").read_text()) == []
    assert len(pd.read_csv(tmp_path / "results.csv")) == 0


def test_nothing_added_changes_nothing(tmp_path: Path) -> None:
    with ResultsWriter(tmp_path / "new", tiny_manifest()):
        pass
    assert not (tmp_path / "new").exists()


def test_an_error_keeps_the_results_so_far(tmp_path: Path) -> None:
    def fail() -> None:
        with ResultsWriter(tmp_path, tiny_manifest()) as writer:
            writer.add_frame("clip.mp4", frame(0), people(1, 3))
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(json.loads((tmp_path / "results.json").read_text())) == 1
    assert not list(tmp_path.glob("*.tmp"))


def test_an_error_in_the_first_picture_leaves_nothing(tmp_path: Path) -> None:
    some = people(1)
    some.keypoints[0, 3] = np.nan
    writer = ResultsWriter(tmp_path, tiny_manifest())
    with pytest.raises(ValueError, match="not JSON compliant"), writer:
        writer.add_frame("clip.mp4", frame(0), some)
    assert not list(tmp_path.iterdir())
    assert writer._results.closed
    assert writer._images.closed


def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    """Less than 4 bytes a frame, where a record alone has about 2,000."""
    some, picture = people(2, 1, 2), frame(0).image
    tracemalloc.start()
    with ResultsWriter(tmp_path, tiny_manifest()) as writer:
        sizes = []
        for index in range(600):
            writer.add_frame("clip.mp4", Frame(index, index / 8, picture), some)
            if index in (99, 599):
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert sizes[1] - sizes[0] < 4 * 500
