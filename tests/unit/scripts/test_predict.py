"""The script: what it writes for pictures and videos, what it leaves out, and its exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
from pycocotools.coco import COCO

import predict
from loopback import Handler, Server, failure, serve
from pose.analysis.calibration import Calibration
from pose.coco.decode import PixelSettings
from pose.common.files import write_json
from pose.deploy import detector
from pose.deploy.manifest import describe
from pose.models.checkpoint import save_weights
from tiny_coco import TinyCoco, picture
from tiny_model import random_model, tiny_manifest

FPS = 12.5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights beside their pose.json, as export leaves them."""
    folder = tmp_path_factory.mktemp("exported")
    save_weights(folder / "model.safetensors", random_model().state_dict(), {})
    write_json(folder / "pose.json", describe(tiny_manifest()))
    return folder / "model.safetensors"


@pytest.fixture
def run(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The script with arguments, in an empty folder `here`; returns its exit code."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def call(*arguments: object) -> int:
        words = ["predict.py", "--model", str(model), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        return predict.main(predict._arguments())

    return call


@pytest.fixture
def server() -> Iterator[Server]:
    yield from serve(Handler)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    logged: list[str] = []
    monkeypatch.setattr(predict, "log", logged.append)
    return logged


def read(name: str) -> list | dict:
    return json.loads(Path("predicted", name).read_text())


def clip(path: Path, frames: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (64, 48))
    for index in range(frames):
        writer.write(picture(index, 64, 48))
    writer.release()
    return path


def test_a_folder_with_cocos_own_boxes(run, tiny_coco: TinyCoco, lines: list[str]) -> None:
    """Ids, sizes and results that COCO's tools read; overlays of the pictures' sizes."""
    folder = tiny_coco.image_path(1).parent
    assert run(folder, "--boxes", tiny_coco.json_path) == 0
    truth = COCO(str(tiny_coco.json_path))
    results = truth.loadRes(str(Path("predicted/results.json").absolute()))
    people = [one for one in tiny_coco.raw["annotations"] if not one.get("iscrowd", 1)]
    assert sorted(one["image_id"] for one in results.anns.values()) == sorted(
        one["image_id"] for one in people
    )
    for one in read("results.json"):
        assert set(one) == {"image_id", "category_id", "keypoints", "score"}
        assert len(one["keypoints"]) == 51
    listed = {one["id"]: one for one in read("images.json")["images"]}
    for one in tiny_coco.raw["images"]:
        assert (listed[one["id"]]["width"], listed[one["id"]]["height"]) == (
            one["width"],
            one["height"],
        )
        drawn = cv2.imread(f"predicted/overlays/{one['file_name']}")
        assert drawn.shape[:2] == (one["height"], one["width"])
        plain = cv2.imread(str(folder / one["file_name"]))
        assert 0.002 < (np.abs(drawn.astype(int) - plain).max(axis=2) > 60).mean() < 0.5
    assert lines[-1] == "predict: 6 poses in 3 pictures and frames, in predicted"


def test_boxes_of_other_pictures(run, tiny_coco: TinyCoco, lines: list[str]) -> None:
    """COCO results that name none of them, and COCO annotations of another size."""
    boxes, path = tiny_coco.root / "boxes.json", tiny_coco.image_path(1)
    found = {"image_id": 77, "category_id": 1, "bbox": [5, 5, 30, 40], "score": 1}
    write_json(boxes, [found])
    assert run(path, "--boxes", boxes) == 0
    assert lines[0].startswith(f"predict: {boxes}: no image_id (77) is the number of a picture (1)")
    tiny_coco.raw["images"][0]["width"] *= 2
    write_json(boxes, tiny_coco.raw)
    lines.clear()
    assert run(path, "--boxes", boxes) == 1
    assert lines[1] == (
        f"predict: {path}: has 160 x 120 pixels, but boxes.json has boxes for 320 x 120"
    )


def test_boxes_of_other_categories_are_counted(run, tiny_coco: TinyCoco, lines: list[str]) -> None:
    tiny_coco.raw["annotations"][1]["category_id"] = "2"
    tiny_coco.save()
    assert run(tiny_coco.image_path(1), "--boxes", tiny_coco.json_path) == 0
    line = f"predict: {tiny_coco.json_path}: left out 2 boxes of other categories (ids 2)"
    assert lines[0] == line
    assert len(read("results.json")) == 1


def test_a_video_keeps_frames_and_rate(run, tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.avi", 4)
    assert run(path, "--whole-image") == 0
    capture = cv2.VideoCapture("predicted/overlays/clip.mp4")
    assert capture.get(cv2.CAP_PROP_FPS) == FPS
    assert [capture.read()[0] for _ in range(5)] == [True] * 4 + [False]
    images = read("images.json")["images"]
    assert [one["file_name"] for one in images] == [f"{path}/{index}" for index in range(4)]
    assert [one["image_id"] for one in read("results.json")] == [1, 2, 3, 4]


def test_a_video_that_is_cut_off_keeps_its_frames_and_counts_as_failed(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    path = clip(tmp_path / "clip.avi", 3)
    monkeypatch.setattr(predict.Video, "truncation", lambda self: "ends after 3 of 9 frames")
    assert run(path, "--whole-image") == 1
    assert lines[0] == f"predict: {path}: ends after 3 of 9 frames"
    assert len(read("results.json")) == 3
    assert Path("predicted/overlays/clip.mp4").exists()


def test_the_flip_test_is_that_of_the_manifest_by_default(run, tiny_coco: TinyCoco) -> None:
    scores = {}
    for option in ((), ("--flip",), ("--no-flip",)):
        assert run(tiny_coco.image_path(1), "--whole-image", *option) == 0
        scores[option] = read("results.json")[0]["score"]
    assert scores[()] == scores[("--flip",)] != scores[("--no-flip",)]


CALIBRATION = Calibration("ab", True, 40, (-1.0, 1.0), (0.0, 1.0))  # (1 + score) / 2


@pytest.fixture
def calibrated(model: Path, tmp_path: Path) -> Path:
    """The model with a pose.json that has a calibration."""
    folder = tmp_path / "calibrated"
    shutil.copytree(model.parent, folder)
    write_json(folder / "pose.json", describe(replace(tiny_manifest(), calibration=CALIBRATION)))
    return folder / "model.safetensors"


def test_probabilities_beside_raw_scores(run, calibrated: Path, tiny_coco: TinyCoco) -> None:
    image = tiny_coco.image_path(1)
    assert run(image, "--whole-image", "--model", calibrated) == 0
    (raw,) = read("results.json")
    assert run(image, "--whole-image", "--model", calibrated, "--calibrated") == 0
    (result,) = read("results.json")
    expected = np.interp(raw["keypoints"][2::3], (-1, 1), (0, 1))
    np.testing.assert_allclose(result.pop("probabilities"), expected, atol=1e-4)
    assert result == raw
    assert COCO(str(tiny_coco.json_path)).loadRes([result | {"probabilities": [0.5] * 17}]).anns


def test_calibrated_needs_a_map_of_the_same_flip_test(run, calibrated: Path) -> None:
    cv2.imwrite("a.png", picture(0, 60, 80))
    arguments = ("a.png", "--whole-image", "--calibrated")
    assert "this model has no calibration: `dvc repro evaluate` fits one" in failure(
        run, *arguments
    )
    said = failure(run, *arguments, "--model", calibrated, "--no-flip")
    assert said == "the calibration was fitted with the flip test; predict with it"
    assert not Path("predicted").exists()


def test_frames_take_the_videos_boxes_or_their_own(run, tmp_path: Path) -> None:
    path, boxes = clip(tmp_path / "clip.avi", 3), tmp_path / "boxes.json"
    write_json(boxes, {"clip.avi": [[5, 5, 20, 30]], "clip.avi/1": []})
    assert run(path, "--boxes", boxes) == 0
    assert [one["image_id"] for one in read("results.json")] == [1, 3]


def test_what_cannot_be_read_is_named_and_the_rest_is_done(
    run, tmp_path: Path, lines: list[str]
) -> None:
    good, noise, film = tmp_path / "good.png", tmp_path / "noise.jpg", tmp_path / "noise.avi"
    cv2.imwrite(str(good), picture(0, 60, 80))
    for path in (noise, film):
        path.write_bytes(b"noise")
    empty, gone = tmp_path / "empty", tmp_path / "gone.jpg"
    empty.mkdir()
    assert run(noise, good, film, empty, gone, "--whole-image") == 1
    assert lines[0].startswith(f"predict: {empty}: no picture")
    assert lines[1:] == [
        f"predict: {gone}: no such file or folder",
        f"predict: {noise}: is not a readable image",
        f"predict: {film}: not a readable video",
        "predict: 1 poses in 1 pictures and frames, in predicted",
        "predict: 4 of 5 inputs failed, see above",
    ]
    assert len(read("results.json")) == 1


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)


def test_a_heic_in_a_folder_is_named_and_counted(run, tmp_path: Path, lines: list[str]) -> None:
    folder = tmp_path / "holiday"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.jpg"), picture(0, 60, 80))
    (folder / "IMG_3.HEIC").write_bytes(HEIC)
    (folder / "IMG_4.heic").write_bytes((folder / "a.jpg").read_bytes())  # a JPEG by content
    (folder / "notes.txt").write_text("no picture")
    assert run(folder, "--whole-image") == 1
    assert lines == [
        f"predict: {folder}/IMG_3.HEIC: is a HEIC file, which cannot be read; convert it to JPEG "
        "or PNG",
        "predict: 2 poses in 2 pictures and frames, in predicted",
        "predict: 1 of 3 inputs failed, see above",
    ]
    assert run(folder / "IMG_3.HEIC", "--whole-image") == 1


def test_bytes_behind_a_jpeg(run, tmp_path: Path, lines: list[str]) -> None:
    whole, cut = tmp_path / "whole.jpg", tmp_path / "cut.jpg"
    content = cv2.imencode(".jpg", picture(0, 60, 80))[1].tobytes()
    whole.write_bytes(content + bytes(5000))
    cut.write_bytes(content[:-200] + bytes(900) + b"\xff\xd9" + bytes(5000))
    assert run(whole, "--whole-image") == 0
    assert run(cut, "--whole-image") == 1
    assert f"predict: {cut}: is truncated (a JPEG with other bytes after part of its data)" in lines


def test_16_bit_pictures_are_counted(run, tmp_path: Path, lines: list[str]) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((60, 80), 4095, np.uint16))
    cv2.imwrite(str(tmp_path / "b.png"), picture(0, 60, 80))
    assert run(tmp_path / "a.png", tmp_path / "b.png", "--whole-image") == 0
    assert lines[0] == (
        "predict: 1 of 2 images have 16 bits, largest value 4,095; as 16 bits (data.bit_depth: "
        "null) they are dark; set data.bit_depth: 12"
    )


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("option", ["--boxes", "--whole-image"])
def test_rotated_photos(
    run, model: Path, tmp_path: Path, lines: list[str], option: str, upright: bool
) -> None:
    """With boxes they are read as in training, else as they are displayed."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(picture(0, 60, 80)).save(tmp_path / "a.jpg", exif=exif)
    write_json(tmp_path / "boxes.json", {"a.jpg": [[5, 5, 30, 40]]})
    manifest = replace(tiny_manifest(), pixels=PixelSettings(upright=upright))
    write_json(tmp_path / "pose.json", describe(manifest))
    (tmp_path / "model.safetensors").write_bytes(model.read_bytes())
    boxes = (tmp_path / "boxes.json",) if option == "--boxes" else ()
    assert run(tmp_path / "a.jpg", option, *boxes, "--model", tmp_path / "model.safetensors") == 0
    [image] = read("images.json")["images"]
    as_stored = option == "--boxes" and not upright
    assert (image["width"], image["height"]) == ((60, 80) if as_stored else (80, 60))
    assert ("they are read as stored" in lines[0]) == as_stored


def test_a_diverged_model_leaves_nothing(run, model: Path, tiny_coco: TinyCoco) -> None:
    diverged = tiny_coco.root / "model.safetensors"
    shutil.copy(model.with_name("pose.json"), tiny_coco.root)
    state = {name: tensor * np.nan for name, tensor in random_model().state_dict().items()}
    save_weights(diverged, state, {})
    line = failure(run, tiny_coco.image_path(1), "--whole-image", "--model", diverged)
    assert "has NaN or infinity (1 of 1 poses" in line
    assert not Path("predicted").exists()


@pytest.mark.parametrize("linked", [False, True])
def test_no_overlay_replaces_an_input(run, tmp_path: Path, linked: bool) -> None:
    """Nor one of the other files that are written; nothing is done before that."""
    photos, out = tmp_path / "photos/overlays", tmp_path / "photos"
    photos.mkdir(parents=True)
    cv2.imwrite(str(photos / "a.jpg"), picture(0, 60, 80))
    before = (photos / "a.jpg").read_bytes()
    if linked:
        out = tmp_path / "link"
        out.symlink_to(tmp_path / "photos")
    line = failure(run, photos, "--whole-image", "--out", out, "--model", "absent")
    assert line == f"{out}/overlays/a.jpg is an input and would be replaced; choose another --out"
    assert (photos / "a.jpg").read_bytes() == before
    write_json(tmp_path / "results.json", {"a.jpg": []})
    line = failure(run, photos, "--boxes", tmp_path / "results.json", "--out", tmp_path)
    assert line.startswith(f"{tmp_path}/results.json is an input and would be replaced")
    assert [path.name for path in photos.iterdir()] == ["a.jpg"]


def test_if_nothing_can_be_read_nothing_is_replaced(run, tmp_path: Path) -> None:
    Path("predicted").mkdir()
    Path("predicted/results.json").write_text("mine")
    (tmp_path / "noise.jpg").write_bytes(b"noise")
    assert run(tmp_path / "noise.jpg", "--whole-image") == 1
    assert run(tmp_path / "gone.jpg", "--whole-image") == 1
    assert Path("predicted/results.json").read_text() == "mine"
    assert [path.name for path in Path("predicted").iterdir()] == ["results.json"]


def test_a_picture_that_the_boxes_do_not_name(run, tiny_coco: TinyCoco, lines: list[str]) -> None:
    boxes = tiny_coco.root / "boxes.json"
    write_json(boxes, {f"{1:012d}.jpg": [[5, 5, 30, 40]]})
    assert run(tiny_coco.image_path(1), tiny_coco.image_path(2), "--boxes", boxes) == 1
    assert lines[0] == f"predict: {tiny_coco.image_path(2)}: has no entry in boxes.json"


def test_a_picture_without_people_is_not_an_error(run, tiny_coco: TinyCoco) -> None:
    write_json(tiny_coco.root / "boxes.json", {f"{1:012d}.jpg": []})
    assert run(tiny_coco.image_path(1), "--boxes", tiny_coco.root / "boxes.json") == 0
    assert (read("results.json"), len(read("images.json")["images"])) == ([], 1)


def test_ids_and_smoothing_of_a_video(run, tmp_path: Path, lines: list[str]) -> None:
    """Two people who stand still: ids 1 and 2, and other keypoints with the filter than without."""
    path, boxes = clip(tmp_path / "clip.avi", 5), tmp_path / "boxes.json"
    write_json(boxes, {"clip.avi": [[2, 5, 20, 30], [35, 5, 20, 30]]})
    keypoints = {}
    for options in (("--track",), ("--smooth",), ("--smooth", "--smooth-cutoff", "1e5")):
        assert run(path, "--boxes", boxes, *options) == 0
        results = read("results.json")
        assert [{one["track_id"] for one in results if one["image_id"] == n} for n in
                range(1, 6)] == [{1, 2}] * 5  # fmt: skip
        keypoints[options] = np.array([one["keypoints"] for one in results])
        assert len(Path("predicted/results.csv").read_text().splitlines()) == 11
    raw, smooth, barely = keypoints.values()
    assert np.abs(smooth - raw).max() > 0.1
    np.testing.assert_allclose(barely, raw, atol=0.01)
    assert re.fullmatch(
        r"predict: 10 poses in 5 pictures and frames, in predicted; 5 frames in [\d.]+ s: boxes "
        r"[\d.]+ s \([\d.]+ frames/s\), poses [\d.]+ s \([\d.]+ frames/s\)",
        lines[-1],
    )


def test_ids_go_on_in_the_next_video(run, tmp_path: Path) -> None:
    paths = [clip(tmp_path / name, 2) for name in ("a.avi", "b.avi")]
    assert run(*paths, "--whole-image", "--track") == 0
    assert [one["track_id"] for one in read("results.json")] == [1, 1, 2, 2]


def test_every_second_frame(run, tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.avi", 5)
    assert run(path, "--whole-image", "--stride", "2") == 0
    images = read("images.json")["images"]
    assert [(one["frame"], one["seconds"]) for one in images] == [(0, 0.0), (2, 0.16), (4, 0.32)]
    capture = cv2.VideoCapture("predicted/overlays/clip.mp4")
    assert capture.get(cv2.CAP_PROP_FPS) == FPS / 2
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_a_stream_that_breaks_off_keeps_its_frames(
    run, tmp_path: Path, lines: list[str], server: Server
) -> None:
    content = clip(tmp_path / "clip.avi", 60).read_bytes()
    server.files["/clip.avi"] = content
    server.cuts += [len(content) // 2] * 9
    address = f"{server.address.replace('//', '//me:secret@')}/clip.avi"
    assert run(address, "--whole-image", "--no-flip") == 1
    count = len(read("results.json"))
    assert 10 < count < 50
    shown = f"{server.address}/clip.avi"
    assert f"predict: {shown}: ends after {count} of 60 frames; is the file truncated?" in lines
    assert read("images.json")["images"][0]["file_name"] == f"{shown}/0"
    assert Path("predicted/overlays/clip.mp4").exists()
    everything = "".join(lines) + Path("predicted/results.csv").read_text()
    assert "secret" not in everything


def test_a_camera_that_is_not_there(run, lines: list[str]) -> None:
    assert run("77", "--whole-image") == 1
    assert lines[0] == "predict: camera 77: cannot be opened; check /dev/video77"


def test_a_video_without_frames(run, tmp_path: Path, lines: list[str]) -> None:
    assert run(clip(tmp_path / "clip.avi", 0), "--whole-image", "--track") == 1
    assert lines[0] == f"predict: {tmp_path}/clip.avi: has no frames"
    assert not Path("predicted").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_the_results_so_far(
    run, tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """The signal comes while the 12th frame is read; groups have 4 frames."""
    path, other = clip(tmp_path / "clip.avi", 40), clip(tmp_path / "other.avi", 3)

    def interrupted(self: predict.Video) -> Iterator[predict.Frame]:
        for frame in frames(self):
            if frame.index == 11:
                os.kill(os.getpid(), number)
            yield frame

    frames = predict.Video.__iter__
    monkeypatch.setattr(predict.Video, "__iter__", interrupted)
    assert run(path, other, "--whole-image", "--batch-size", "4") == 128 + number
    assert len(read("results.json")) == 11
    assert cv2.VideoCapture("predicted/overlays/clip.mp4").get(cv2.CAP_PROP_FRAME_COUNT) == 11
    assert lines[-1] == f"predict: stopped by {number.name}; the results so far are written"


def test_tracking_needs_a_video(run, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture(0, 60, 80))
    for option in ("--track", "--smooth"):
        line = failure(run, tmp_path / "a.png", "--whole-image", option)
        assert line == "--track and --smooth need a video or a stream, and no input is one"


def test_without_internet_access_the_error_names_the_next_step(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(predict, "weights_url", lambda name: "http://127.0.0.1:9/x-01234567.pth")
    monkeypatch.setattr("pose.fetch.url.RETRY", 0)
    monkeypatch.setattr(detector, "get_model", lambda name, **_: None)
    cv2.imwrite(str(tmp_path / "a.png"), picture(0, 60, 80))
    line = failure(run, tmp_path / "a.png")
    assert line.endswith(
        f"; without internet access, put the file at {tmp_path}/hub/checkpoints/x-01234567.pth, or "
        "give --boxes FILE or --whole-image"
    )


def test_no_detector_for_mice(model: Path, tmp_path: Path, run) -> None:
    mice = tmp_path / "mice"
    mice.mkdir()
    write_json(mice / "pose.json", describe(tiny_manifest()) | {"category": "mouse"})
    (mice / "model.safetensors").write_bytes(model.read_bytes())
    cv2.imwrite(str(tmp_path / "a.png"), picture(0, 60, 80))
    line = failure(run, tmp_path / "a.png", "--model", mice / "model.safetensors")
    assert "category of the model is 'mouse'" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ("a.jpg", "--boxes", "b.json", "--whole-image"),
        ("a.jpg", "--detector", "oracle"),
        ("a.jpg", "--batch-size", "0"),
        ("a.mp4", "--stride", "0"),
        ("a.mp4", "--smooth", "--smooth-cutoff", "-1"),
        ("a.mp4", "--smooth", "--smooth-beta", "nan"),
        ("a.mp4", "--track", "--smooth-beta", "3"),
        (),
    ],
)
def test_wrong_commands_end_with_2(run, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
