"""Predict poses in your own pictures, videos and streams; writes overlays and COCO results.

    python stages/predict.py photo.jpg holiday/ clip.mp4        # boxes from torchvision's detector
    python stages/predict.py clip.mp4 --track --smooth          # ids of people, less jitter
    python stages/predict.py rtsp://10.0.0.7/yard --stride 5    # a stream; 0 is the first camera
    python stages/predict.py crops/ --whole-image               # one person fills each picture
    python stages/predict.py val2017/ --boxes person_keypoints_val2017.json
    python stages/predict.py photo.jpg --model exported --no-flip --out poses

A folder stands for the pictures and videos directly in it. The default model is
models/ssl.safetensors with params.yaml and data/cache. --model takes a folder of export.py (run by
ONNX Runtime), the model.safetensors in it, or other weights of the model in params.yaml. --boxes
takes {"a.jpg": [[x, y, w, h], ...]}, COCO annotations or COCO results; docs/predict.md describes
the formats. The weights of the detector (--detector) are downloaded once.

Writes to --out: results.json (COCO results, keypoints as x, y, score; track_id), images.json (id,
file name and size of every picture and frame, time of a frame), results.csv (the same, one row
per person) and overlays/ (JPEG; videos as MP4 with the same frames). Memory does not grow with the
length of a video. After Ctrl-C or SIGTERM the results so far are written. Unreadable inputs are
skipped, counted and logged. Exit code: 0 every input was used, 1 some were not, 2 the command line
is wrong, 130 or 143 stopped by Ctrl-C or SIGTERM. Not a stage of the pipeline.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pose.deploy.detectors import DETECTORS


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a positive integer")
    return int(text)


def _hertz(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number from 0 to 1,000,000")
    return value


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="pictures, videos and folders of them; 0, 1, ...: cameras; rtsp:// or http(s)://",
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
    video = parser.add_argument_group("videos, cameras and streams")
    video.add_argument("--track", action="store_true", help="ids of people over the frames")
    video.add_argument("--smooth", action="store_true", help="one-euro filter; implies --track")
    video.add_argument(
        "--smooth-cutoff", type=_hertz, metavar="HZ", help="cutoff at rest, Hz (1); less: smoother"
    )
    video.add_argument(
        "--smooth-beta",
        type=_hertz,
        metavar="HZ",
        help="rise of the cutoff, Hz per box height per second (10); more: less lag",
    )
    video.add_argument(
        "--stride", type=_count, default=1, metavar="N", help="every N-th frame only (1)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("predicted"), help="output folder (predicted)"
    )
    arguments = parser.parse_args()
    if not arguments.smooth and (arguments.smooth_cutoff, arguments.smooth_beta) != (None, None):
        parser.error("--smooth-cutoff and --smooth-beta need --smooth")
    return arguments


if __name__ == "__main__":
    arguments = _arguments()  # --help does not wait for the imports below

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from signal import Signals

import torch

from pose.coco.decode import ImageNote
from pose.coco.image_notes import bit_depth_lines, orientation_lines
from pose.coco.images import BadImageError
from pose.common.errors import PoseError
from pose.common.files import write_atomic
from pose.common.log import log, progress
from pose.common.script import exit_codes
from pose.deploy.boxes import Boxes, BoxFile, whole_image
from pose.deploy.detector import Detector, weights_path, weights_url
from pose.deploy.interrupt import stop_signals
from pose.deploy.manifest import (
    FILE,
    build_manifest,
    project_calibration,
    project_params,
    project_weights,
)
from pose.deploy.media import Stream, is_video, list_inputs, read_picture
from pose.deploy.overlay import draw_people
from pose.deploy.people import (
    FindBoxes,
    People,
    Seconds,
    find_people,
    find_video_people,
    follow_people,
)
from pose.deploy.predictor import Predictor, torch_network
from pose.deploy.results import (
    FILES,
    ResultsWriter,
    numeric_ids,
    overlay_paths,
    require_inputs_stay,
)
from pose.deploy.smooth import OneEuroFilter
from pose.deploy.track import MAX_LOST_SECONDS, Tracker
from pose.deploy.video import Frame, Video, video_writer
from pose.draw import encode_jpeg

NAME = "predict"
SMOOTH_CUTOFF, SMOOTH_BETA = 1.0, 10.0  # Hz; Hz per box height per second: docs/predict.md


def main(arguments: argparse.Namespace) -> int:
    """Returns the exit code: 1 if an input failed, 130 or 143 if stopped by a signal, else 0."""
    sources, errors = list_inputs(arguments.inputs)
    for error in errors:
        log(f"{NAME}: {error}")
    if (arguments.track or arguments.smooth) and not any(map(is_video, sources)):
        raise PoseError("--track and --smooth need a video or a stream, and no input is one")
    failed, stopped = _predict(arguments, sources) if sources else (0, [])
    failed += len(errors)
    if failed:
        log(f"{NAME}: {failed} of {len(sources) + len(errors)} inputs failed, see above")
    if stopped:
        log(f"{NAME}: stopped by {stopped[0].name}; the results so far are written")
        return 128 + stopped[0]
    return 1 if failed else 0


def _predict(
    arguments: argparse.Namespace, sources: list[Path | Stream]
) -> tuple[int, list[Signals]]:
    """Predict and write all files; returns the number of failed ones, which are logged.

    Also returns the signal that ended it, if one did.
    """
    out, overlays = arguments.out, overlay_paths(sources, arguments.out / "overlays")
    read = [*sources, arguments.boxes] if arguments.boxes else sources
    require_inputs_stay(read, [*overlays.values(), *(out / name for name in FILES)])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    predictor = _predictor(arguments, device)
    calibration = predictor.require_calibration() if arguments.calibrated else None
    find_boxes = _box_source(arguments, sources, predictor, device)
    settings = predictor.manifest.pixels
    if arguments.boxes is None:  # boxes are in pixels of images as in training
        settings = replace(settings, upright=True)
    notes: list[ImageNote] = []
    ids, failed = numeric_ids(sources), 0
    with (
        ResultsWriter(out, predictor.manifest, calibration) as writer,
        stop_signals() as stopped,
    ):
        videos = _Videos(arguments, predictor, find_boxes, writer, lambda: bool(stopped))
        for source in progress(sources, NAME):
            try:
                if is_video(source):
                    videos.add_(source, overlays[source])
                elif isinstance(source, Path):
                    picture, note = read_picture(source, settings)
                    notes.append(note)
                    people = find_people(predictor, picture, find_boxes(picture, str(source)))
                    writer.add_picture(str(source), ids.get(source), picture, people)
                    drawn = draw_people(picture, predictor.manifest, people)
                    write_atomic(overlays[source], encode_jpeg(drawn))
            except BadImageError as error:
                failed += 1
                log(f"{NAME}: {source}: {error}")
            if stopped:
                break
    lines = bit_depth_lines(notes, len(notes), settings)
    if not settings.upright:
        lines += orientation_lines(notes, len(notes), settings)
    for line in lines:
        log(f"{NAME}: {line}")
    done = f"{writer.poses} poses in {writer.pictures} pictures and frames, in {out}"
    log(f"{NAME}: {done}{videos.timing()}")
    return failed, stopped


@dataclass
class _Videos:
    """What the videos of a run share; add_ adds one."""

    arguments: argparse.Namespace
    predictor: Predictor
    find_boxes: FindBoxes
    writer: ResultsWriter
    is_stopped: Callable[[], bool]
    seconds: Seconds = field(default_factory=Seconds)
    frames: int = 0
    total_seconds: float = 0.0
    track_ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def add_(self, source: Path | Stream, overlay: Path) -> None:
        """Add every stride-th frame; the overlay has the same frames, at a constant rate."""
        start, stride = time.perf_counter(), self.arguments.stride
        video = Video(source, stride)
        people = self._people(video, source)
        try:
            first = next(people, None)
            if first is not None:
                image_wh = first[0].image.shape[1::-1]
                with video_writer(overlay, video.fps / stride, image_wh) as write:
                    for frame, found in itertools.chain([first], people):
                        self.writer.add_frame(str(source), frame, found)
                        write(draw_people(frame.image, self.predictor.manifest, found))
                        self.frames += 1
        finally:
            video.close()
            self.total_seconds += time.perf_counter() - start
        if not self.is_stopped() and (error := video.truncation()):
            raise BadImageError(error)

    def _people(self, video: Video, source: Path | Stream) -> Iterator[tuple[Frame, People]]:
        def boxes(frame: Frame) -> Boxes:
            return self.find_boxes(frame.image, str(source), frame.index)

        total, name = -(-video.count // video.stride), f"{NAME}: {Path(str(source)).name}"
        frames = progress(video, name, total, leave=False, unit=" frames")
        shown = itertools.takewhile(lambda _: not self.is_stopped(), frames)
        people = find_video_people(self.predictor, shown, boxes, self.seconds)
        if not (self.arguments.track or self.arguments.smooth):
            return people
        tracker = Tracker(self.track_ids, self.predictor.manifest.sigmas)
        return follow_people(people, tracker, self._filter())

    def _filter(self) -> OneEuroFilter | None:
        if not self.arguments.smooth:
            return None
        cutoff, beta = self.arguments.smooth_cutoff, self.arguments.smooth_beta
        cutoff = SMOOTH_CUTOFF if cutoff is None else cutoff
        return OneEuroFilter(cutoff, SMOOTH_BETA if beta is None else beta, MAX_LOST_SECONDS)

    def timing(self) -> str:
        """End of the last log line: how long boxes and poses of videos took."""
        if not self.frames:
            return ""
        parts = (("boxes", self.seconds.detector), ("poses", self.seconds.pose))
        spent = ", ".join(f"{n} {s:.1f} s ({self.frames / s:.1f} frames/s)" for n, s in parts)
        return f"; {self.frames} frames in {self.total_seconds:.1f} s: {spent}"


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
    arguments: argparse.Namespace,
    sources: list[Path | Stream],
    predictor: Predictor,
    device: torch.device,
) -> FindBoxes:
    if arguments.whole_image:
        return lambda image, *where: whole_image(image)
    if arguments.boxes:
        file = BoxFile(arguments.boxes, predictor.manifest.category_ids)
        if file.left_out:
            log(f"{NAME}: {arguments.boxes}: {file.left_out_line()}")
        if line := file.unlisted_line(str(one) for one in sources if not is_video(one)):
            log(f"{NAME}: {arguments.boxes}: {line}")
        return file
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
    return lambda image, *where: detector(image)


if __name__ == "__main__":
    with exit_codes(NAME):
        sys.exit(main(arguments))
