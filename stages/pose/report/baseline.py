"""Whether the baseline's numbers are of the same people of val, so that a difference has a meaning.

metrics/baseline has metrics.json and params.yaml of the accepted run and, written by
`make baseline`, the digest of its data/cache/ground_truth.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pose.common.files import digest
from pose.report.page import Text

Settings = dict[str, Any]  # section.key -> value
DIGEST = "ground_truth.sha256"
SCORING = ("data.source", "keypoints.oks_sigmas")
VAL = ("data.val_split", "data.category", "data.area", "data.on_bad_record", "keypoints.names")
RENDERED = ("synthetic.seed", "synthetic.val_images", "synthetic.image_size")


def other_data(
    here: Settings, baseline: Settings, ground_truth: Path, accepted: str | None
) -> list[str]:
    """What makes the ground truth or its scoring another one than the baseline's; empty: nothing.

    Rendered and downloaded data are the same if their settings are; a file of the user may change
    under its name, so there the ground truth has the digest `accepted`. Settings that only the
    training images depend on are none. A key that the baseline lacks was added later.
    """
    keys = {"synthetic": (*VAL, *RENDERED), "coco": VAL, "local": ()}[here["data.source"]]
    found = [key for key in (*SCORING, *keys) if baseline.get(key, here[key]) != here[key]]
    if here["data.source"] == "local" and digest(ground_truth) != accepted:
        found.append("annotations of val")
    return found


def accepted_digest(folder: Path) -> str | None:
    """The digest in a baseline's folder, if it has one."""
    path = folder / DIGEST
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


def not_compared(reasons: Sequence[str]) -> Text:
    """Why there is no comparison, and how to make this run the one to compare with."""
    line = (
        f"Not compared with metrics/baseline, which was measured on other data "
        f"({', '.join(reasons)}). `make baseline` makes this run the baseline."
    )
    return Text((line,))
