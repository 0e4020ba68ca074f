"""Pictures and videos of people's own: listed, read, written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from pose.coco.decode import PixelSettings
from pose.coco.images import BadImageError
from pose.deploy.media import Stream, is_video, list_inputs, read_picture
from tiny_coco import picture

STORED, UPRIGHT = PixelSettings(upright=False), PixelSettings(upright=True)


def test_files_and_folders_are_listed_once(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "c.mp4", "notes.txt", "._a.png"):
        (tmp_path / name).touch()
    (tmp_path / "deep.jpg").mkdir()
    (tmp_path / "deep.jpg" / "d.jpg").touch()
    empty = tmp_path / "empty"
    empty.mkdir()
    odd = tmp_path / "notes.txt"
    names = [tmp_path / "c.mp4", tmp_path, odd, empty, tmp_path / "gone"]
    inputs, errors = list_inputs([str(name) for name in names])
    assert [path.name for path in inputs] == ["c.mp4", "a.png", "b.JPG", "notes.txt"]
    assert errors[0].startswith(f"{empty}: no picture (.jpg ")
    assert errors[1:] == [f"{tmp_path / 'gone'}: no such file or folder"]


def test_cameras_and_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inputs, errors = list_inputs(["0", "rtsp://h/a", "0"])
    assert (inputs, errors) == ([Stream("0"), Stream("rtsp://h/a")], [])
    Path("0").write_bytes(b"")
    assert list_inputs(["0"])[0] == [Path("0")]
    assert all(map(is_video, inputs))


@pytest.mark.parametrize("name", ["file:///etc/passwd", "rtsp://[", "rtsp://", "concat://a.mp4"])
def test_other_addresses_are_refused(name: str) -> None:
    line = f"{name}: not a valid address of a stream (rtsp, rtsps, http, https)"
    assert list_inputs([name]) == ([], [line])


@pytest.mark.parametrize(
    ("address", "text", "stem"),
    [
        ("0", "camera 0", "camera-0"),
        ("rtsp://me:secret@h:554/yard?token=secret", "rtsp://h:554/yard", "yard"),
        ("https://h/live/a.m3u8", "https://h/live/a.m3u8", "a"),
        ("rtsp://me:secret@10.0.0.7", "rtsp://10.0.0.7", "10.0.0.7"),
    ],
)
def test_a_streams_name_has_no_password(address: str, text: str, stem: str) -> None:
    stream = Stream(address)
    assert (str(stream), stream.stem) == (text, stem)


def test_a_picture_is_read_as_rgb(tmp_path: Path) -> None:
    image = picture(0, 40, 30)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png", STORED)[0], image[..., ::-1])


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1"])
def test_any_colours_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / f"a.{'tif' if mode == 'CMYK' else 'png'}"
    PIL.Image.fromarray(picture(0, 40, 30)).convert(mode).save(path)
    assert read_picture(path, STORED)[0].shape == (30, 40, 3)


def test_exif_turns_only_if_asked(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # orientation: turn clockwise to see it upright
    PIL.Image.fromarray(picture(0, 40, 30)).save(tmp_path / "a.jpg", exif=exif)
    stored, turned = (read_picture(tmp_path / "a.jpg", how)[0] for how in (STORED, UPRIGHT))
    assert stored.shape == (30, 40, 3)
    np.testing.assert_array_equal(turned, np.rot90(stored, -1))


def test_pictures_of_unreadable_formats_are_listed(tmp_path: Path) -> None:
    names = ["IMG_1.HEIC", "b.avif", "c.Cr2", "d.dng", "e.jxl", "f.jfif", "g.gif"]
    for name in [*names, "notes.txt", "x.json"]:
        (tmp_path / name).touch()
    inputs, errors = list_inputs([str(tmp_path)])
    assert ([path.name for path in inputs], errors) == (names, [])


def test_a_picture_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match=r"^cannot be read: No such file"):
        read_picture(tmp_path / "gone.jpg", STORED)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, "is empty (0 bytes)"), (5, "is "), (-300, "is ")],
)
def test_what_is_no_picture(tmp_path: Path, name: str, size: int, expected: str) -> None:
    cv2.imwrite(str(tmp_path / name), picture(0, 100, 80))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:size])
    with pytest.raises(BadImageError) as caught:
        read_picture(tmp_path / name, STORED)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_picture_that_claims_an_absurd_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture(0, 100, 80))
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BadImageError, match=r"is too large \(Image size \(8000 pixels\) exceeds"):
        read_picture(tmp_path / "a.png", STORED)
