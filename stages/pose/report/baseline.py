"""Whether the baseline's numbers are of the same people of val, so that a difference has a meaning.

metrics/baseline has metrics.json and params.yaml of the accepted run and, written by
`make baseline`, the digest of its data/cache/ground_truth.json. tools/pr_report.py compares two
commits by the same settings, so this module imports neither torch nor jinja2.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pose.common.files import digest

Settings = dict[str, Any]  # section.key -> value
DIGEST = "ground_truth.sha256"
SCORING = ("data.source", "keypoints.oks_sigmas")
VAL = (
    "data.val_split",
    "data.category",
    "data.area",
    "data.on_bad_record",
    "keypoints.parts",
    "keypoints.names",
)
RENDERED = ("synthetic.seed", "synthetic.val_images", "synthetic.image_size")


def flatten(params: Mapping[str, Any]) -> Settings:
    """section.key -> value, from sections of keys.

    >>> flatten({"train": {"lr": 0.1, "epochs": 2}})
    {'train.lr': 0.1, 'train.epochs': 2}
    """
    return {
        f"{section}.{key}": value
        for section, keys in params.items()
        for key, value in dict(keys).items()
    }


def parse_settings(text: str, sections: Container[str]) -> Settings:
    """These sections of a params.yaml or a recipe, flattened; values are not validated."""
    content = YAML(typ="safe", pure=True).load(text) or {}
    return flatten({name: keys for name, keys in content.items() if name in sections})


def other_settings(here: Settings, there: Settings) -> list[str]:
    """Keys by which the ground truth or its scoring differs; empty: none.

    Rendered and downloaded data are the same if their settings are; files of the user are not, so
    there only the scoring is compared. Settings that only the training images depend on are none.
    A key that `there` lacks was added later.
    """
    keys = {"synthetic": (*VAL, *RENDERED), "coco": VAL, "local": ()}[here["data.source"]]
    return [key for key in (*SCORING, *keys) if there.get(key, here[key]) != here[key]]


def other_data(
    here: Settings, baseline: Settings, ground_truth: Path, accepted: str | None
) -> list[str]:
    """What makes the ground truth or its scoring another one than the baseline's; empty: nothing.

    A file of the user may change under its name, so there the ground truth has to have the digest
    `accepted`.
    """
    found = other_settings(here, baseline)
    if here["data.source"] == "local" and digest(ground_truth) != accepted:
        found.append("annotations of val")
    return found


def accepted_digest(folder: Path) -> str | None:
    """The digest in a baseline's folder, if it has one."""
    path = folder / DIGEST
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


def not_compared(reasons: Sequence[str]) -> str:
    """Why there is no comparison, and how to make this run the one to compare with."""
    return (
        f"Not compared with metrics/baseline, which was measured on other data "
        f"({', '.join(reasons)}). `make baseline` makes this run the baseline."
    )
