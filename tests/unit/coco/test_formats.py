"""Pictures of formats that cannot be read are recognised by content, not by name."""

from __future__ import annotations

import io

import PIL.Image
import pytest

from pose.coco.decode import decode_image
from pose.coco.formats import unreadable_kind
from pose.coco.images import BadImageError
from tiny_coco import picture

READABLE = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "JPEG2000", "AVIF", "MPO")


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(picture(0, 40, 30)).save(stream, kind)
    return stream.getvalue()


def iso(*brands: bytes) -> bytes:
    body = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    return (len(body) + 4).to_bytes(4, "big") + body + b"\0\0\0\x08mdat"


@pytest.mark.parametrize(
    ("content", "suffix", "kind"),
    [
        (iso(b"heic", b"mif1", b"heic"), ".heic", "HEIC"),
        (iso(b"mif1", b"mif1", b"heic"), ".heif", "HEIC"),
        (iso(b"heix", b"mif1"), ".jpg", "HEIC"),
        (iso(b"msf1", b"hevc"), ".heic", "HEIC"),
        (iso(b"mif1", b"miaf"), ".hif", "HEIF"),
        (iso(b"crx ", b"isom"), ".cr3", "CR3"),
        (iso(b"isom", b"mp42"), ".mp4", None),
        (iso(b"avif", b"mif1", b"miaf"), ".heic", None),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(90), ".tif", "CR2"),
        (b"MM\0*\0\0\0\x08" + bytes(90), ".nef", "NEF"),
        (b"II*\0\x08\0\0\0" + bytes(90), ".dng", "DNG"),
        (b"II*\0\x08\0\0\0" + bytes(90), ".tif", None),
        (b"IIRO\x08\0\0\0" + bytes(90), ".orf", "ORF"),
        (b"IIU\0\x18\0\0\0" + bytes(90), ".rw2", "RW2"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(90), ".raf", "RAF"),
        (b"\xff\x0a\x7f\x4a" + bytes(20), ".jxl", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), ".jxl", "JPEG XL"),
        (b"8BPS\0\1" + bytes(20), ".psd", "PSD"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg width='9'/>", ".svg", "SVG"),
        (b" <svg width='9'/>", ".png", "SVG"),
        (b"", ".heic", None),
        (b"noise", ".heic", None),
        (b"\0\0\0\x18ftyp", ".heic", None),
    ],
)
def test_kinds(content: bytes, suffix: str, kind: str | None) -> None:
    assert unreadable_kind(content, suffix) == kind
    expected = f"is a {kind} file, which cannot be read; convert" if kind else "is "
    with pytest.raises(BadImageError, match=expected):
        decode_image(content, None, suffix=suffix.upper())


@pytest.mark.parametrize("suffix", [".jpg", ".HEIC", ".cr3", ".svg", ""])
@pytest.mark.parametrize("kind", READABLE)
def test_readable_pictures_are_read_whatever_their_name(kind: str, suffix: str) -> None:
    image, _ = decode_image(encoded(kind), (40, 30), suffix=suffix)
    assert image.shape == (30, 40, 3)
