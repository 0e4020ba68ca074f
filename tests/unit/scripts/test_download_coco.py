"""download_coco against a server on loopback."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import download_coco
from loopback import Handler, Server, failure, serve, sha256
from pose.common import stage
from pose.common.errors import PoseError
from pose.common.params import load_params
from pose.fetch.checksums import COCO_2017, COCO_2017_UNLABELLED, Checksum, ZipChecksums
from tiny_coco import SPLIT, TinyCoco

Run = Callable[..., None]
BOXES = json.dumps([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]).encode()
AP_H_70 = "COCO_val2017_detections_AP_H_70_person.json"


def zipped(path: Path, *names: str) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name * 1000)
    return path.read_bytes()


@pytest.fixture
def server(tmp_path: Path, slept: list[float], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A mirror that serves small files under the names of COCO's."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for server in serve(Handler):
        for place in COCO_2017 | COCO_2017_UNLABELLED:
            folder = "annotations" if "annotations" in place else Path(place).stem
            server.files[f"/{place}"] = zipped(tmp_path / "x.zip", f"{folder}/{place}.jpg")
        server.files[f"/{AP_H_70}"] = BOXES
        monkeypatch.setattr(download_coco, "_dvc_cache", lambda: tmp_path / "cache")
        small = {place: checksum(server.files[f"/{place}"]) for place in COCO_2017}
        monkeypatch.setattr(download_coco, "COCO_2017", small)
        unlabelled = {
            place: ZipChecksums(known.folder, 0, known.md5)
            for place, known in COCO_2017_UNLABELLED.items()
        }
        monkeypatch.setattr(download_coco, "COCO_2017_UNLABELLED", unlabelled)
        yield server


def checksum(content: bytes) -> Checksum:
    return Checksum(hashlib.md5(content).hexdigest(), "the table", "md5", len(content))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bent_params) -> Run:
    """Runs the stage's main in an empty folder with the given `data` keys."""
    (tmp_path / "a project").mkdir()
    monkeypatch.chdir(tmp_path / "a project")

    def run(**data: Any) -> None:
        values = {f"data.{key}": json.dumps(value) for key, value in data.items()}
        download_coco.main(load_params(bent_params(values)))

    return run


def coco(run: Run, server: Server, **data: Any) -> None:
    run(source="coco", base_url=f"{server.address}/", **data)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


def served(server: Server, *places: str) -> dict[str, bytes]:
    return {Path(place).name: server.files[f"/{place}"] for place in places}


def test_the_published_files() -> None:
    """Against the figures of the public lists."""
    assert {place: known.size for place, known in COCO_2017.items()} == {
        "zips/train2017.zip": 19_336_861_798,
        "zips/val2017.zip": 815_585_330,
        "annotations/annotations_trainval2017.zip": 252_907_541,
    }
    assert {len(known.digest) for known in COCO_2017.values()} == {32}
    assert {known.algorithm for known in COCO_2017.values()} == {"md5"}


def test_coco_is_downloaded_once_and_linked(run: Run, server: Server) -> None:
    for _ in range(2):
        coco(run, server)
        assert content(stage.COCO) == content(stage.DOWNLOADS) == served(server, *COCO_2017)
        assert len(server.asked) == 3
        for name in content(stage.COCO):
            assert (stage.COCO / name).samefile(stage.DOWNLOADS / name)
        shutil.rmtree(stage.COCO)  # as DVC does before a run
    metrics = json.loads((stage.METRICS / "download_coco/metrics.json").read_text())
    assert metrics == {"bytes": sum(map(len, served(server, *COCO_2017).values()))}


def test_files_in_dvcs_cache_are_not_downloaded_again(
    run: Run, server: Server, tmp_path: Path
) -> None:
    """They are verified too: val's file is damaged in the cache."""
    for place in COCO_2017:
        whole = server.files[f"/{place}"]
        md5 = hashlib.md5(whole).hexdigest()
        cached = tmp_path / "cache/files/md5" / md5[:2] / md5[2:]
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_bytes(b"damaged" if place == "zips/val2017.zip" else whole)
    coco(run, server)
    assert content(stage.COCO) == served(server, *COCO_2017)
    assert len(server.asked) == 1


def test_files_are_copied_if_hard_links_fail(
    run: Run, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", fail)
    coco(run, server)
    assert content(stage.COCO) == served(server, *COCO_2017)
    assert not (stage.COCO / "val2017.zip").samefile(stage.DOWNLOADS / "val2017.zip")
    free = shutil.disk_usage(".")._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    text = failure(lambda: coco(run, server))
    assert "data/resume/download_coco-coco/" in text
    assert text.endswith("free some disk space")


def test_cocos_own_files_have_no_parts(run: Run, server: Server, bent_params) -> None:
    values = {"data.source": "coco", "data.base_url": server.address}
    values["keypoints.parts"] = "[body, foot]"
    with pytest.raises(
        PoseError, match=r"^params.yaml: keypoints.parts = \['body', 'foot'\], but C"
    ):
        download_coco.main(load_params(bent_params(values)))
    assert not server.asked
    assert not stage.COCO.exists()


def test_a_damaged_download_is_downloaded_again(run: Run, server: Server) -> None:
    coco(run, server)
    with (stage.COCO / "val2017.zip").open("r+b") as stream:
        stream.write(b"spoilt")
    coco(run, server)
    assert content(stage.COCO) == served(server, *COCO_2017)
    assert len(server.asked) == 4


def test_unlabelled_images_and_their_list(
    run: Run, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    boxes = b'[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.9}]'
    (tmp_path / "boxes.json").write_bytes(boxes)
    with caplog.at_level("INFO", "pose"):
        coco(
            run, server, unlabelled_images=True, unlabelled_detections=str(tmp_path / "boxes.json")
        )
    copied = {stage.UNLABELLED_DETECTIONS.name: boxes}
    assert content(stage.COCO) == served(server, *COCO_2017, *COCO_2017_UNLABELLED) | copied
    lines = "\n".join(caplog.messages)
    for place in COCO_2017_UNLABELLED:
        assert f"{Path(place).name}: " in lines
        assert f"sha256 {sha256(server.files[f'/{place}'])}" in lines
    coco(run, server)
    assert content(stage.COCO) == served(server, *COCO_2017)
    assert len(server.asked) == 5


def test_another_unlabelled_zip_is_refused(run: Run, server: Server, tmp_path: Path) -> None:
    server.files["/zips/unlabeled2017.zip"] = zipped(tmp_path / "x.zip", "train2017/1.jpg")
    (tmp_path / "boxes.json").write_text("[]")
    boxes = str(tmp_path / "boxes.json")
    text = failure(lambda: coco(run, server, unlabelled_images=True, unlabelled_detections=boxes))
    assert "unlabeled2017.zip: is not the expected zip: ['train2017/1.jpg']" in text
    assert not (stage.DOWNLOADS / "unlabeled2017.zip").exists()
    assert not stage.COCO.exists()


def test_an_error_leaves_the_previous_data(run: Run, server: Server) -> None:
    coco(run, server)
    before = content(stage.COCO)
    del server.files["/zips/val2017.zip"]
    (stage.DOWNLOADS / "val2017.zip").unlink()
    text = failure(lambda: coco(run, server))
    assert text == f"{server.address}/zips/val2017.zip: HTTP 404: not found; correct the URL"
    assert content(stage.COCO) == before


def test_leftovers_of_a_killed_run_are_removed(run: Run, server: Server) -> None:
    left = stage.RESUME / "download_coco-coco"
    left.mkdir(parents=True)
    (left / "unlabeled2017.zip").write_bytes(b"of another run")
    coco(run, server)
    assert content(stage.COCO) == served(server, *COCO_2017)


# ---------------------------------------------------------------------------- detections


def boxes(server: Server) -> dict[str, str]:
    return {"detections": f"{server.address}/{AP_H_70}", "detections_sha256": sha256(BOXES)}


def test_boxes_of_a_url(run: Run, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Setting them later does not download COCO again."""
    coco(run, server)
    with caplog.at_level("INFO", "pose"):
        coco(run, server, **boxes(server))
    assert len(server.asked) == 4
    assert content(stage.COCO) == served(server, *COCO_2017) | {"detections.json": BOXES}
    line = f"download_coco: boxes of val are from {AP_H_70}, sha256 {sha256(BOXES)}"
    assert line in caplog.messages
    coco(run, server)
    assert content(stage.COCO) == served(server, *COCO_2017)
    assert len(server.asked) == 4


def test_wrong_boxes_are_reported_before_the_download(run: Run, server: Server) -> None:
    wrong = boxes(server) | {"detections_sha256": "0" * 64}
    text = failure(lambda: coco(run, server, **wrong))
    assert f"data.detections_sha256 says {'0' * 64}" in text
    assert len(server.asked) == 1


@pytest.mark.parametrize("sha", [None, sha256(BOXES)])
def test_boxes_of_a_path(run: Run, server: Server, tmp_path: Path, sha: str | None) -> None:
    (tmp_path / AP_H_70).write_bytes(BOXES)
    coco(run, server, detections=str(tmp_path / AP_H_70), detections_sha256=sha)
    assert content(stage.COCO)["detections.json"] == BOXES


def test_boxes_of_a_path_with_another_digest(run: Run, server: Server, tmp_path: Path) -> None:
    (tmp_path / AP_H_70).write_bytes(BOXES)
    values = {"detections": str(tmp_path / AP_H_70), "detections_sha256": "0" * 64}
    text = failure(lambda: coco(run, server, **values))
    assert f"{AP_H_70}: sha256 is {sha256(BOXES)}, data.detections_sha256 says" in text
    assert server.asked == []


# ---------------------------------------------------------------------------- local


def local(run: Run, root: Path) -> Any:
    run(source="local", root=str(root), train_split=SPLIT, val_split=SPLIT)
    assert [path.name for path in stage.COCO.iterdir()] == ["local.json"]
    return json.loads((stage.COCO / "local.json").read_text())


def test_links_to_a_local_coco_give_the_same_digests(
    run: Run, tiny_coco: TinyCoco, tmp_path: Path
) -> None:
    """A linked root, linked split and annotation folders, linked zips; nothing is copied."""
    zips = tiny_coco.zipped(tmp_path / "zips")
    for real in (tiny_coco.root, zips):
        expected = local(run, real)
        links = tmp_path / f"links to {real.name}"
        links.mkdir()
        for path in real.iterdir():
            (links / path.name).symlink_to(path)
        (tmp_path / f"root {real.name}").symlink_to(real)
        assert local(run, links) == local(run, tmp_path / f"root {real.name}") == expected


def test_a_change_behind_a_link_is_seen(run: Run, tiny_coco: TinyCoco, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    for path in tiny_coco.root.iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    before = local(run, tmp_path / "links")
    with tiny_coco.image_path(1).open("ab") as stream:
        stream.write(b" ")
    assert local(run, tmp_path / "links") != before


def test_a_split_without_annotations_is_counted_and_tracked(
    run: Run, tiny_coco: TinyCoco, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As test-dev: a list of images that lie in test2017."""
    shutil.copytree(tiny_coco.root / SPLIT, tiny_coco.root / "test2017")
    listed = tiny_coco.root / "annotations/image_info_test-dev2017.json"
    listed.write_text(json.dumps({"images": tiny_coco.raw["images"]}))
    (tmp_path / AP_H_70).write_bytes(BOXES)
    values = {"train_split": SPLIT, "val_split": "test-dev2017"}
    values |= {"source": "local", "root": str(tiny_coco.root)}
    assert "data.val_split = 'test-dev2017' has no annotations" in failure(lambda: run(**values))
    values["detections"] = str(tmp_path / AP_H_70)
    with caplog.at_level("INFO", "pose"):
        run(**values)
    line = f"{listed.name}: no annotations, so val_AP cannot be measured while training; "
    assert f"download_coco: warning: {line}train with an annotated val, then" in caplog.text
    counts = json.loads((stage.METRICS / "download_coco/metrics.json").read_text())
    assert (counts["val_images"], counts["val_persons"]) == (3, 0)
    before = json.loads(stage.LOCAL.read_text())
    listed.write_text(json.dumps({"images": tiny_coco.raw["images"][:2]}))
    run(**values)
    after = json.loads(stage.LOCAL.read_text())
    assert after["val"] != before["val"]
    assert after["train"] == before["train"]


def test_images_that_are_in_both_splits_are_told(
    run: Run, tiny_coco: TinyCoco, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By their bytes, whatever they are called, in folders and zips; other images are not."""
    other = tmp_path / "other"
    shutil.copytree(tiny_coco.root, other)
    train = other / "annotations/person_keypoints_train2017.json"
    train.write_text(tiny_coco.json_path.read_text().replace("000000000001.jpg", "first.jpg"))
    shutil.copytree(other / SPLIT, other / "train2017")
    (other / "train2017/000000000001.jpg").rename(other / "train2017/first.jpg")
    for number in (2, 3):
        name = f"{number:012d}.jpg"
        content = (other / "train2017" / name).read_bytes()
        (other / "train2017" / name).write_bytes(content[:-2] + b" " * (number - 2) + content[-2:])
    with caplog.at_level("INFO", "pose"):
        run(source="local", root=str(other))
    line = "2 of 3 images of val are in train too (same size and CRC-32); "
    (told,) = [message for message in caplog.messages if "warning" in message]
    assert told.startswith(f"download_coco: warning: {line}")
    assert told.endswith(": 000000000001.jpg, 000000000002.jpg")
    assert json.loads(stage.LOCAL.read_text())["warnings"] == [told.split("warning: ")[1]]
    with zipfile.ZipFile(other / "train2017.zip", "w") as archive:
        for path in (other / "train2017").iterdir():
            archive.write(path, f"train2017/{path.name}")
    shutil.rmtree(other / "train2017")
    run(source="local", root=str(other))
    assert json.loads(stage.LOCAL.read_text())["warnings"] == [told.split("warning: ")[1]]


def test_absent_images_of_people_stop_before_the_download_of_weights(
    run: Run, tiny_coco: TinyCoco, caplog: pytest.LogCaptureFixture
) -> None:
    name = tiny_coco.image_path(2).name
    tiny_coco.image_path(2).unlink()
    values = {"source": "local", "root": str(tiny_coco.root)}
    values |= {"train_split": SPLIT, "val_split": SPLIT}
    line = f"{SPLIT}: {name} is named in the annotations but absent"
    with pytest.raises(PoseError) as caught:
        run(**values)
    advice = f"searched {tiny_coco.root / SPLIT}; set data.train_images or data.val_images"
    assert str(caught.value).splitlines()[0] == f"{line}; {advice}"
    with caplog.at_level("INFO", "pose"):
        run(**values, on_bad_record="skip")
    assert line in caplog.text


@pytest.mark.parametrize("kind", ["folder", "error"])
def test_an_image_that_cannot_be_read_is_not_told_as_absent(
    run: Run, tiny_coco: TinyCoco, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tiny_coco.image_path(2)
    read_bytes = Path.read_bytes

    def failing(self: Path) -> bytes:
        if self.name == path.name:
            raise OSError(errno.EIO, "Input/output error")
        return read_bytes(self)

    if kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "error":
        monkeypatch.setattr(Path, "read_bytes", failing)
    values = {"source": "local", "root": str(tiny_coco.root)}
    values |= {"train_split": SPLIT, "val_split": SPLIT}
    with pytest.raises(PoseError) as caught:
        run(**values)
    line, _ = str(caught.value).splitlines()
    reason = {"folder": "not a regular file, or larger", "error": "[Errno 5] Input/output error"}
    assert line.startswith(f"{SPLIT}: {path.name} cannot be read: {reason[kind]}")
    assert "absent" not in line
    assert "data.train_images" not in line


def test_a_folder_in_file_name_that_the_images_do_not_have(run: Run, tiny_coco: TinyCoco) -> None:
    for image in tiny_coco.raw["images"]:
        image["file_name"] = f"images/{image['file_name']}"
    tiny_coco.save()
    values = {"train_split": SPLIT, "val_split": SPLIT}
    with pytest.raises(PoseError) as caught:
        run(source="local", root=str(tiny_coco.root), **values)
    line, _ = str(caught.value).splitlines()
    assert line.startswith(f"{SPLIT}: 3 images are named in the annotations but absent; first: ")
    name = tiny_coco.image_path(1).name
    place = f"{tiny_coco.root / SPLIT} has {name!r}: move it to 'images/{name}' there"
    assert line.endswith(f"; {place}, or correct file_name")


def test_a_file_name_that_begins_with_the_folder_of_the_images(
    run: Run, tiny_coco: TinyCoco
) -> None:
    """What the message says to set is enough, also as `.`; a zip of that folder needs nothing."""
    for image in tiny_coco.raw["images"]:
        image["file_name"] = f"{SPLIT}/{image['file_name']}"
    tiny_coco.save()
    root = tiny_coco.root
    values = {"source": "local", "root": str(root), "train_split": SPLIT, "val_split": SPLIT}
    with pytest.raises(PoseError) as caught:
        run(**values)
    line, _ = str(caught.value).splitlines()
    advice = f"{root} has it: set data.train_images or data.val_images to {str(root)!r}"
    assert line.endswith(f"; {advice}")
    for folder in (str(root), "."):
        run(**values, train_images=folder, val_images=folder)
    zips = tiny_coco.zipped(root.parent / "zips")
    run(**values | {"root": str(zips)})


def test_other_images_are_no_warning(
    run: Run, tiny_coco: TinyCoco, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "pose"):
        run(
            source="local",
            root=str(tiny_coco.root),
            train_annotations=f"annotations/person_keypoints_{SPLIT}.json",
            train_images=SPLIT,
            val_fraction=0.5,
        )
    assert json.loads(stage.LOCAL.read_text())["warnings"] == []
    assert not [message for message in caplog.messages if "warning" in message]
    (told,) = [message for message in caplog.messages if "val_fraction" in message]
    counts = json.loads((stage.METRICS / "download_coco/metrics.json").read_text())
    train, val = counts["train_images"], counts["val_images"]
    assert train + val == 3
    assert told.endswith(f"data.val_fraction = 0.5: {train} images train, {val} val")


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_held_out_images_without_people(run: Run, tiny_coco: TinyCoco, bad: int) -> None:
    """With val_fraction: 0.5 image 3 is val; `bad` annotations of the others cannot be used."""
    values = {"source": "local", "root": str(tiny_coco.root), "val_fraction": 0.5}
    values |= {"train_annotations": f"annotations/{tiny_coco.json_path.name}"}
    values |= {"train_images": SPLIT, "on_bad_record": "skip"}
    people = [one for one in tiny_coco.raw["annotations"] if one["image_id"] != 3]
    for annotation in people[:bad]:
        del annotation["bbox"]
    tiny_coco.raw["annotations"] = people
    tiny_coco.save()
    text = failure(lambda: run(**values))
    name, count = tiny_coco.json_path.name, "no person in the 1 held-out images"
    assert text == f"{name}: {count}; change data.val_fraction"


def test_a_held_out_file_of_bad_records_alone(run: Run, tiny_coco: TinyCoco) -> None:
    for annotation in tiny_coco.raw["annotations"]:
        annotation.pop("bbox", None)
    tiny_coco.save()
    values = {"source": "local", "root": str(tiny_coco.root), "val_fraction": 0.5}
    values |= {"train_annotations": f"annotations/{tiny_coco.json_path.name}"}
    with pytest.raises(PoseError) as caught:
        run(**values, train_images=SPLIT, on_bad_record="skip")
    last = str(caught.value).splitlines()[-1]
    assert last.endswith(f"nobody is left in {tiny_coco.json_path.name}; repair them")


def test_files_outside_root_are_told(
    run: Run, tiny_coco: TinyCoco, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outside = tmp_path / "outside.json"
    outside.write_bytes(tiny_coco.json_path.read_bytes())
    values = {"source": "local", "root": str(tiny_coco.root), "train_split": SPLIT}
    with caplog.at_level("INFO", "pose"):
        run(**values, val_annotations=str(outside), val_images=SPLIT)
    (told,) = [message for message in caplog.messages if "does not see" in message]
    assert f": {outside}; after one run `dvc repro --force download_coco`" in told
    before = json.loads(stage.LOCAL.read_text())
    outside.write_text(outside.read_text() + "\n")
    run(**values, val_annotations=str(outside), val_images=SPLIT)
    after = json.loads(stage.LOCAL.read_text())
    assert before["train"] == after["train"]
    assert before["val"]["images"] == after["val"]["images"]
    assert before["val"]["annotations"] != after["val"]["annotations"]


def test_a_relative_root_names_the_folder_that_was_searched(run: Run, tmp_path: Path) -> None:
    text = failure(lambda: run(source="local", root="mydata"))
    folder = tmp_path / "a project"
    assert text.startswith(f"params.yaml: data.root = 'mydata': no such file in {folder};")
    (folder / "mydata").touch()
    text = failure(lambda: run(source="local", root="mydata"))
    assert text == "params.yaml: data.root = 'mydata' is a file, expected a folder"
