"""Videos: frames and their times, rotation, depth, streams that break off, and written files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from loopback import Handler, Server, serve
from pose.coco.images import BadImageError
from pose.deploy import video as video_module
from pose.deploy.media import Stream
from pose.deploy.video import Video, video_writer
from videos import mp4_box, retime_mp4, rotate_mp4, write_clip

FPS, FRAMES = 12.5, 5
TEN_BIT = Path(__file__).with_name("ten_bit.mp4")  # H.264 High 10, 3 frames, written by PyAV


def clip(path: Path, frames: int = FRAMES, codec: str = "mp4v") -> Path:
    """Frames of 64 x 48, the third mostly red, with a blue corner."""
    pictures = []
    for index in range(frames):
        picture = np.full((48, 64, 3), (0, 0, 100 * index if index < 3 else 0), np.uint8)
        picture[:16, :16] = (255, 0, 0)
        pictures.append(picture)
    return write_clip(path, pictures, FPS, codec)


@pytest.fixture
def server() -> Iterator[Server]:
    yield from serve(Handler)


def test_frames_of_a_video(tmp_path: Path) -> None:
    video = Video(clip(tmp_path / "a.avi", codec="MJPG"))
    frames = list(video)
    assert (video.fps, video.count, len(frames)) == (FPS, FRAMES, FRAMES)
    assert np.abs(frames[2].image[30:].astype(int) - (200, 0, 0)).max() < 12
    assert [frame.index for frame in frames] == list(range(FRAMES))
    assert [frame.seconds for frame in frames] == pytest.approx(np.arange(FRAMES) / FPS)
    assert video.truncation() is None


def test_every_third_frame(tmp_path: Path) -> None:
    video = Video(clip(tmp_path / "a.avi", 8), stride=3)
    frames = list(video)
    assert [frame.index for frame in frames] == [0, 3, 6]
    assert [frame.seconds for frame in frames] == pytest.approx([0, 3 / FPS, 6 / FPS])
    assert (video.frames_read, video.truncation()) == (8, None)


def test_a_variable_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4")
    scale = int.from_bytes(mp4_box(path, b"mdhd")[12:16], "big")
    retime_mp4(path, [scale // 10, scale // 2, scale // 10, scale // 4, scale // 10])
    video = Video(path)
    seconds = [frame.seconds for frame in video]
    assert seconds == pytest.approx([0, 0.1, 0.6, 0.7, 0.95], abs=1e-3)
    assert video.truncation() is None


def test_times_that_stand_still_go_on_by_the_frame_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = Video(clip(tmp_path / "a.mp4"))
    video.count = 0
    stays_0 = cv2.CAP_PROP_ORIENTATION_META
    monkeypatch.setattr(video_module.cv2, "CAP_PROP_POS_MSEC", stays_0)
    assert [f.seconds for f in video] == pytest.approx(np.arange(FRAMES) / FPS)


def test_a_phones_rotation_is_applied(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4")
    rotate_mp4(path)
    frame = next(iter(Video(path))).image
    assert frame.shape == (64, 48, 3)
    blue = frame[..., 2] > 128
    assert blue[:16, -16:].mean() > 0.9  # upper left before, upper right now
    assert blue.mean() < 0.12


def test_10_bits_become_8() -> None:
    frames = [frame.image for frame in Video(TEN_BIT)]
    assert [frame.dtype for frame in frames] == [np.uint8] * 3
    assert np.abs(frames[0][5, 50].astype(int) - (200, 40, 40)).max() < 8
    assert np.abs(frames[0][40, 50].astype(int) - (30, 30, 180)).max() < 8


def test_an_odd_size_is_read_whole(tmp_path: Path) -> None:
    """OpenCV writes even sizes only, but reads JPEG files one after the other as a video."""
    jpeg = cv2.imencode(".jpg", np.full((47, 65, 3), 90, np.uint8))[1].tobytes()
    (tmp_path / "a.mjpeg").write_bytes(jpeg * 40)
    frames = [frame.image for frame in Video(tmp_path / "a.mjpeg")]
    assert [frame.shape for frame in frames] == [(47, 65, 3)] * 40
    assert np.abs(frames[-1].astype(int) - 90).max() < 4  # also the last column and row


def test_a_video_whose_header_states_more_frames(tmp_path: Path) -> None:
    video = Video(clip(tmp_path / "a.avi"))
    video.count = 9
    assert len(list(video)) == FRAMES
    assert video.truncation() == "ends after 5 of 9 frames; is the file truncated?"


def test_a_video_without_frames(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(
        str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (64, 48)
    )
    writer.release()
    video = Video(tmp_path / "a.avi")
    assert list(video) == []
    assert video.truncation() == "has no frames"


@pytest.mark.parametrize("content", [b"", b"noise" * 100])
def test_what_is_no_video(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.avi").write_bytes(content)
    with pytest.raises(BadImageError, match=r"^not a readable video$"):
        Video(tmp_path / "a.avi")


@pytest.mark.parametrize("address", ["77", "rtsp://me:secret@127.0.0.1:9/yard"])
def test_streams_that_cannot_be_opened(address: str) -> None:
    with pytest.raises(BadImageError, match="cannot be opened") as caught:
        Video(Stream(address))
    assert "secret" not in str(caught.value)


def test_a_stream_is_read_like_a_file(tmp_path: Path, server: Server) -> None:
    server.files["/a.avi"] = clip(tmp_path / "a.avi", 40, "MJPG").read_bytes()
    video = Video(Stream(f"{server.address}/a.avi"))
    assert len(list(video)) == 40
    assert video.truncation() is None


def test_a_stream_that_breaks_off_keeps_its_frames(tmp_path: Path, server: Server) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (100, 48, 64, 3), dtype=np.uint8)
    content = write_clip(tmp_path / "a.avi", noise, FPS, "MJPG").read_bytes()
    server.files["/a.avi"] = content
    server.cuts += [len(content) // 2] * 9
    video = Video(Stream(f"{server.address}/a.avi"))
    count = len(list(video))
    assert 30 < count < 60
    assert video.truncation() == f"ends after {count} of 100 frames; is the file truncated?"


def test_the_end_of_a_stream_without_a_number_of_frames(tmp_path: Path, server: Server) -> None:
    server.files["/a.avi"] = clip(tmp_path / "a.avi", 8, "MJPG").read_bytes()
    video = Video(Stream(f"{server.address}/a.avi"))
    video.count = 0
    assert len(list(video)) == 8
    assert video.truncation() == "the stream ended or broke off after 8 frames"


def test_a_written_video_keeps_rate_size_and_number(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.mp4"
    with video_writer(path, FPS, (64, 48)) as write:
        for level in (0, 90, 180):
            write(np.full((48, 64, 3), (0, level, 0), np.uint8))
        assert not path.exists()
    video = Video(path)
    frames = [frame.image for frame in video]
    assert (video.fps, len(frames), frames[0].shape) == (FPS, 3, (48, 64, 3))
    assert [round(frame[..., 1].mean() / 90) for frame in frames] == [0, 1, 2]
    assert [file.name for file in path.parent.iterdir()] == ["a.mp4"]


def test_a_video_that_is_not_finished_is_none(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), video_writer(tmp_path / "a.mp4", FPS, (64, 48)):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_a_frame_rate_that_is_a_clock_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_module, "MAX_FPS", 10.0)
    assert Video(clip(tmp_path / "a.avi")).fps == video_module.FALLBACK_FPS
    assert list(itertools.islice(Video(clip(tmp_path / "a.avi")), 1))
