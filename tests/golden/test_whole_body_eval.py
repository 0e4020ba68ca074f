"""AP of COCO-WholeBody's parts equals xtcocotools' to the last digit (data/PROVENANCE.md)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from golden.whole_body_people import KEYS, SETS, draw_set
from pose.coco.records import Reader
from pose.common.skeleton import names_of_parts, oks_sigmas, parts_of
from pose.common.whole_body import ALL_PARTS, PARTS
from pose.evaluation.coco_metrics import STATS
from pose.evaluation.whole_body_eval import whole_body_eval
from sections import DEFAULT

DATA = Path(__file__).with_name("data")
NAMES = names_of_parts(ALL_PARTS)


def joined(seed: int) -> tuple[dict, list[dict]]:
    """Ground truth as build_cache writes it, and results as evaluate does."""
    truth, results = draw_set(seed)
    images = {image["id"]: image for image in truth["images"]}
    reader = Reader(images, {1}, NAMES, DEFAULT.data, (*PARTS,))
    truth["annotations"] = [reader.read(person) for person in truth["annotations"]]
    for pose in results:
        pose["keypoints"] = [value for key in KEYS.values() for value in pose[key]]
    return truth, results


@pytest.mark.parametrize("seed", range(SETS))
def test_parts_equal_xtcocotools(seed: int) -> None:
    expected = json.loads((DATA / "whole_body_ap.json").read_text())[seed]
    found = whole_body_eval(*joined(seed), parts_of(NAMES), oks_sigmas(NAMES, None))
    assert {name: found[name] for name in STATS} == expected["wholebody"]
    assert {part: found[f"AP_{part}"] for part in expected} == {
        part: stats["AP"] for part, stats in expected.items()
    }
    assert len({stats["AP"] for stats in expected.values()}) > 4
