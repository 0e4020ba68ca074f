"""Files of the Hugging Face Hub and of plain URLs, pinned and verified."""

from __future__ import annotations

from pathlib import Path


def fetch_hub(repo: str, file: str, revision: str, sha256: str | None) -> tuple[Path, str]:
    """In work."""
    raise NotImplementedError


def fetch_url(url: str, folder: Path, sha256: str) -> Path:
    """In work."""
    raise NotImplementedError
