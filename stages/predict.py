"""Predict poses in your own pictures and videos; writes overlays and COCO results.

    python stages/predict.py photo.jpg holiday/ clip.mp4        # boxes from torchvision's detector
    python stages/predict.py crops/ --whole-image               # one person fills each picture
    python stages/predict.py val2017/ --boxes person_keypoints_val2017.json
    python stages/predict.py photo.jpg --model exported --no-flip --out poses

A folder stands for the pictures and videos directly in it. The default model is
models/ssl.safetensors with params.yaml and data/cache. --model takes a folder of export.py (run by
ONNX Runtime), the model.safetensors in it, or other weights of the model in params.yaml. --boxes
takes {"a.jpg": [[x, y, w, h], ...]}, COCO annotations or COCO results; docs/predict.md describes
the formats. The weights of the detector (--detector) are downloaded once.

Writes to --out: results.json (COCO results, keypoints as x, y, score), images.json (id, file name
and size of every picture and frame) and overlays/ (JPEG; videos as MP4 with the same frames).
Unreadable inputs are skipped, counted and logged. Exit code: 0 every input was used, 1 some were
not, 2 the command line is wrong. Not a stage of the pipeline.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pose.deploy.detectors import DETECTORS


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a positive integer")
    return int(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        type=Path,
        metavar="IMAGES",
        help="pictures, videos and folders of them",
    )
    boxes = parser.add_mutually_exclusive_group()
    boxes.add_argument("--boxes", type=Path, metavar="FILE", help="JSON file of boxes")
    listed = "; ".join(f"{name} ({what})" for name, what in DETECTORS.items())
    boxes.add_argument("--detector", choices=DETECTORS, default=next(iter(DETECTORS)), help=listed)
    boxes.add_argument("--whole-image", action="store_true", help="one box: the whole picture")
    parser.add_argument(
        "--min-score", type=float, default=0.5, help="minimum score of detected boxes (0.5)"
    )
    parser.add_argument("--model", type=Path, help="folder of export.py or .safetensors file")
    parser.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, help="flip test (as in evaluate.flip_test)"
    )
    parser.add_argument(
        "--calibrated",
        action="store_true",
        help="add the probabilities that keypoints are right to results.json",
    )
    parser.add_argument(
        "--batch-size", type=_count, default=32, help="people per forward pass (32)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("predicted"), help="output folder (predicted)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _arguments()  # --help does not wait for the imports below

import sys
from dataclasses import replace
from itertools import chain

import torch

from pose.coco.decode import ImageNote
from pose.coco.image_notes import bit_depth_lines, orientation_lines
from pose.coco.images import BadImageError
from pose.common.errors import PoseError
from pose.common.files import write_atomic
from pose.common.log import log, progress
from pose.common.script import exit_codes
from pose.deploy.boxes import BoxFile, whole_image
from pose.deploy.detector import Detector, weights_path, weights_url
from pose.deploy.manifest import (
    FILE,
    build_manifest,
    project_calibration,
    project_params,
    project_weights,
)
from pose.deploy.media import Video, is_video, list_inputs, read_picture, video_writer
from pose.deploy.predictor import Predictor, torch_network
from pose.deploy.results import FindBoxes, ResultsWriter, numeric_ids, overlay_paths
from pose.draw import encode_jpeg

NAME = "predict"


def main(arguments: argparse.Namespace) -> int:
    """Returns the exit code: 1 if an input failed, else 0."""
    paths, errors = list_inputs(arguments.inputs)
    for error in errors:
        log(f"{NAME}: {error}")
    failed = len(errors) + (_predict(arguments, paths) if paths else 0)
    if failed:
        log(f"{NAME}: {failed} of {len(paths) + len(errors)} inputs failed, see above")
    return 1 if failed else 0


def _predict(arguments: argparse.Namespace, paths: list[Path]) -> int:
    """Predict and write all files; returns the number of failed ones, which are logged."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    predictor, out = _predictor(arguments, device), arguments.out
    if arguments.calibrated:
        predictor.require_calibration()
    boxes = _box_source(arguments, predictor, device)
    writer = ResultsWriter(predictor, boxes, arguments.calibrated)
    settings = predictor.manifest.pixels
    if arguments.boxes is None:  # boxes are in pixels of images as in training
        settings = replace(settings, upright=True)
    notes: list[ImageNote] = []
    overlays, ids, failed = overlay_paths(paths, out / "overlays"), numeric_ids(paths), 0
    for path in progress(paths, NAME):
        try:
            if is_video(path):
                _add_video_(writer, path, overlays[path])
            else:
                picture, note = read_picture(path, settings)
                notes.append(note)
                drawn = writer.add_(picture, ids.get(path), str(path))
                write_atomic(overlays[path], encode_jpeg(drawn))
        except BadImageError as error:
            failed += 1
            log(f"{NAME}: {path}: {error}")
    lines = bit_depth_lines(notes, len(notes), settings)
    if not settings.upright:
        lines += orientation_lines(notes, len(notes), settings)
    for line in lines:
        log(f"{NAME}: {line}")
    if writer.images:
        writer.save(out)
    log(
        f"{NAME}: {len(writer.results)} poses in {len(writer.images)} pictures and frames, in {out}"
    )
    return failed


def _predictor(arguments: argparse.Namespace, device: torch.device) -> Predictor:
    path, size = arguments.model, arguments.batch_size
    if path is not None and (path.is_dir() or (path.parent / FILE).is_file()):
        return Predictor.load(path, arguments.flip, size, device)
    params = project_params()
    manifest = build_manifest(params)
    path = path or project_weights("ssl")
    if arguments.calibrated:
        manifest = replace(manifest, calibration=project_calibration(path))
    network = torch_network(manifest, path, device)
    flip = manifest.flip_test if arguments.flip is None else arguments.flip
    return Predictor(network, manifest, flip, size, device, params.train.amp)


def _box_source(
    arguments: argparse.Namespace, predictor: Predictor, device: torch.device
) -> FindBoxes:
    if arguments.whole_image:
        return lambda image, *names: whole_image(image)
    if arguments.boxes:
        file = BoxFile(arguments.boxes, predictor.manifest.category_id)
        return lambda image, *names: file(*names)
    if predictor.manifest.category != "person":
        raise PoseError(
            f"the category of the model is {predictor.manifest.category!r}, but the detector "
            "finds persons; give --boxes FILE or --whole-image"
        )
    url = weights_url(arguments.detector)
    try:
        detector = Detector(arguments.detector, url, arguments.min_score, device)
    except PoseError as error:
        raise PoseError(
            f"{error}; without internet access, put the file at {weights_path(url)}, or "
            "give --boxes FILE or --whole-image"
        ) from None
    return lambda image, *names: detector(image)


def _add_video_(writer: ResultsWriter, path: Path, overlay: Path) -> None:
    """Add all frames of a video; the overlay video has the same frames and frame rate."""
    video = Video(path)
    frames = progress(video, f"{NAME}: {path.name}", video.count, leave=False)
    first = next(frames, None)
    if first is not None:
        with video_writer(overlay, video.fps, first.shape[1::-1]) as write:
            for index, frame in enumerate(chain([first], frames)):
                name = f"{path}/{index}"
                write(writer.add_(frame, None, name, f"{path.name}/{index}", str(path)))
    if error := video.truncation():
        raise BadImageError(error)


if __name__ == "__main__":
    with exit_codes(NAME):
        sys.exit(main(arguments))
