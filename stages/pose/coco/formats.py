"""Files that cannot be read as pictures, recognised by content."""

from __future__ import annotations

TIFF = (b"II*\0", b"MM\0*")
HEIC = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
SIGNATURES = {
    b"FUJIFILMCCD-RAW": "RAF",
    b"IIRO": "ORF",
    b"IIRS": "ORF",
    b"MMOR": "ORF",
    b"IIU\0": "RW2",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"8BPS": "PSD",
    b"<svg": "SVG",
}
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
HTML = (b"<!doctype html", b"<html")
# File extensions of raw images in a TIFF container, whose first image is only a thumbnail
RAW_TIFF = (".3fr", ".arw", ".cr2", ".dng", ".nef", ".nrw", ".pef", ".rwl", ".sr2", ".srw")
OTHERS = (".heic", ".heif", ".hif", ".cr3", ".raf", ".orf", ".rw2", ".jxl", ".psd", ".svg")
UNREADABLE = (*RAW_TIFF, *OTHERS)


def unreadable_kind(content: bytes, suffix: str) -> str | None:
    """Name of the format ("HEIC") if content is a picture of a format that cannot be read.

    suffix: the file's extension in lower case; it counts only for raw images, which are TIFF files.
    """
    if content[4:8] == b"ftyp":
        return _iso_kind(content)
    if content[:4] in TIFF and (suffix in RAW_TIFF or content[8:10] == b"CR"):
        return suffix[1:].upper() if suffix in RAW_TIFF else "CR2"
    text = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<?xml") and b"<svg" in text:
        return "SVG"
    return next((kind for start, kind in SIGNATURES.items() if text.startswith(start)), None)


def seen_instead(content: bytes) -> str:
    """What the content of a file is if it is no readable image, as the end of a sentence."""
    if not content:
        return "is empty (0 bytes)"
    if content.startswith(LFS_POINTER):
        return "is a pointer of Git LFS, not the image; run `git lfs pull` where it was cloned"
    if content[:1024].lstrip().lower().startswith(HTML):
        return "is an HTML page, not an image; download it again"
    if not any(content):
        return f"has {len(content):,} bytes, all of them 0"
    return "is not a readable image"


def _iso_kind(content: bytes) -> str | None:
    """Kind of an ISO media file (HEIF, CR3, MP4, ...) by its brands; AVIF is readable."""
    end = min(int.from_bytes(content[:4], "big"), 256)
    brands = {content[8:12], *(content[i : i + 4] for i in range(16, end, 4))}
    if brands & {b"avif", b"avis"}:
        return None
    if brands & HEIC:
        return "HEIC"
    if brands & {b"mif1", b"msf1"}:
        return "HEIF"
    return "CR3" if b"crx " in brands else None
