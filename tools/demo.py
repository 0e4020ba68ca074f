"""Poses in a photograph and in a rendered clip, by the model that `make repro` trained.

    python tools/demo.py

Nothing is downloaded. The photograph comes with matplotlib (grace_hopper.jpg: an official portrait
of the US Navy, in the public domain); tools/render_clip.py renders the clip. Boxes are given.
The default model has seen rendered people only. In the clip its keypoints are right but for an arm
that moves in front of the body; in the photograph they are wrong, with scores of half the size: the
eyes are on the cap and the shoulders on the glasses. Photographs need a model trained on COCO.
Writes demo/: photo and clip, boxes.json, overlays/ with the poses drawn, results.json. Takes about
20 s on two cores.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

import render_clip
from pose.common.errors import PoseError
from pose.common.files import read_json, write_json
from pose.common.script import exit_codes

NAME = "demo"
ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "demo"
PHOTO = "grace_hopper.jpg"
PHOTO_BOX = [0, 0, 512, 600]  # head to waist: she fills the picture
SEEN = (
    "the default model has seen rendered people only. In the clip most keypoints are right; in the "
    "photograph they are wrong (it takes the face for a body): train on COCO for photographs"
)


def main(frames: int, out: Path, model: Path) -> None:
    if not model.is_file():
        raise PoseError(f"{model}: no such file; run `make repro` first, it trains the model")
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(mpl.get_data_path()) / "sample_data" / PHOTO, out)
    render_clip.main(out / "clip.mp4", frames, seed=0)
    boxes = {PHOTO: [PHOTO_BOX], **read_json(out / "clip.json")}
    write_json(out / "boxes.json", boxes)
    command: list[str | Path] = [sys.executable, ROOT / "stages/predict.py"]
    command += [out / PHOTO, out / "clip.mp4", "--boxes", out / "boxes.json"]
    if subprocess.run([*command, "--model", model, "--out", out]).returncode:
        raise PoseError("predict.py failed, see above")
    print(f"{NAME}: open {out / 'overlays' / PHOTO} and {out / 'overlays' / 'clip.mp4'}")
    print(f"{NAME}: {SEEN}")


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with exit_codes(NAME):
        main(render_clip.FRAMES, OUT, ROOT / "models/ssl.safetensors")
