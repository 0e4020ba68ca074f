"""Pictures and videos of people's own: listed, read, written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from pose.coco.decode import PixelSettings
from pose.coco.images import BadImageError
from pose.deploy.media import Video, list_inputs, read_picture, video_writer
from tiny_coco import picture

STORED, UPRIGHT = PixelSettings(upright=False), PixelSettings(upright=True)
FPS, FRAMES = 12.5, 5


def clip(path: Path) -> Path:
    """A motion-JPEG video of five frames of 64 x 48, the third mostly red."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (64, 48))
    for index in range(FRAMES):
        writer.write(np.full((48, 64, 3), (0, 0, 100 * index if index < 3 else 0), np.uint8))
    writer.release()
    return path


def test_files_and_folders_are_listed_once(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "c.mp4", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "deep.jpg").mkdir()
    (tmp_path / "deep.jpg" / "d.jpg").touch()
    empty = tmp_path / "empty"
    empty.mkdir()
    odd = tmp_path / "notes.txt"
    inputs, errors = list_inputs([tmp_path / "c.mp4", tmp_path, odd, empty, tmp_path / "gone"])
    assert [path.name for path in inputs] == ["c.mp4", "a.png", "b.JPG", "notes.txt"]
    assert errors[0].startswith(f"{empty}: no picture (.jpg ")
    assert errors[1:] == [f"{tmp_path / 'gone'}: no such file or folder"]


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
    inputs, errors = list_inputs([tmp_path])
    assert ([path.name for path in inputs], errors) == (names, [])


def test_a_picture_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match=r"^cannot be read: No such file"):
        read_picture(tmp_path / "gone.jpg", STORED)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, "is not a readable image"), (5, "is "), (-300, "is ")],
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
    with pytest.raises(BadImageError, match="not a readable image"):
        read_picture(tmp_path / "a.png", STORED)


def test_frames_of_a_video(tmp_path: Path) -> None:
    video = Video(clip(tmp_path / "a.avi"))
    frames = list(video)
    assert (video.fps, video.count, len(frames)) == (FPS, FRAMES, FRAMES)
    assert np.abs(frames[2].astype(int) - (200, 0, 0)).max() < 12
    assert video.truncation() is None


def test_a_video_whose_header_states_more_frames(tmp_path: Path) -> None:
    video = Video(clip(tmp_path / "a.avi"))
    video.count = 9
    assert len(list(video)) == FRAMES
    assert video.truncation() == "ends after 5 of 9 frames; is the file truncated?"


def test_a_video_without_frames(tmp_path: Path) -> None:
    video = Video(clip(tmp_path / "a.avi"))
    video.count = 0
    assert video.truncation() == "ends after 0 of 0 frames; is the file truncated?"


@pytest.mark.parametrize("content", [b"", b"noise" * 100])
def test_what_is_no_video(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.avi").write_bytes(content)
    with pytest.raises(BadImageError, match=r"^not a readable video$"):
        Video(tmp_path / "a.avi")


def test_a_written_video_keeps_rate_size_and_number(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.mp4"
    with video_writer(path, FPS, (64, 48)) as write:
        for level in (0, 90, 180):
            write(np.full((48, 64, 3), (0, level, 0), np.uint8))
        assert not path.exists()
    video = Video(path)
    frames = list(video)
    assert (video.fps, len(frames), frames[0].shape) == (FPS, 3, (48, 64, 3))
    assert [round(frame[..., 1].mean() / 90) for frame in frames] == [0, 1, 2]
    assert [file.name for file in path.parent.iterdir()] == ["a.mp4"]


def test_a_video_that_is_not_finished_is_none(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), video_writer(tmp_path / "a.mp4", FPS, (64, 48)):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
