"""Makes data/whole_body_ap.json: AP of COCO-WholeBody's parts by xtcocotools.

    uv venv /tmp/xt && uv pip install --python /tmp/xt/bin/python cython setuptools numpy matplotlib
    uv pip install --python /tmp/xt/bin/python --no-build-isolation --no-binary xtcocotools \
        xtcocotools==1.14.3
    PYTHONPATH=stages /tmp/xt/bin/python tests/golden/make_whole_body.py

No dependency of the project: it has no wheels for every Python. Sigmas are the project's, whose
values tests/unit/common/test_whole_body.py states. Seconds.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
from pathlib import Path

import numpy as np
from whole_body_people import SETS, draw_set
from xtcocotools.coco import COCO
from xtcocotools.cocoeval import COCOeval

from pose.common.skeleton import names_of_parts, oks_sigmas, parts_of
from pose.common.whole_body import ALL_PARTS

NAMES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")


def measure(seed: int) -> dict[str, dict[str, float]]:
    names = names_of_parts(ALL_PARTS)
    sigmas, found = oks_sigmas(names, None), {}
    for part, where in {**parts_of(names), "wholebody": slice(0, 133)}.items():
        truth, results = copy.deepcopy(draw_set(seed))
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO()
            coco.dataset, coco.anno_file = truth, [None]
            coco.createIndex()
            kind = "keypoints" if part == "body" else f"keypoints_{part}"
            run = COCOeval(coco, coco.loadRes(results), kind, sigmas[where], use_area=True)
            run.evaluate()
            run.accumulate()
            run.summarize()
        found[part] = dict(zip(NAMES, np.asarray(run.stats).tolist(), strict=True))
    return found


if __name__ == "__main__":
    content = json.dumps([measure(seed) for seed in range(SETS)], indent=1)
    Path(__file__).with_name("data").joinpath("whole_body_ap.json").write_text(content + "\n")
