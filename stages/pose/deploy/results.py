"""Output of predict.py: COCO results, the list of images, a CSV table, and names of overlays.

Records go to temporary files as they come, so that memory does not grow with a video's length.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pose.analysis.calibration import Calibration
from pose.common.errors import PoseError
from pose.common.files import move_into_place
from pose.deploy.manifest import Manifest
from pose.deploy.media import Image, Stream, is_video
from pose.deploy.people import People
from pose.deploy.predictor import to_results
from pose.deploy.video import Frame

FILES = ("results.json", "images.json", "results.csv")


class ResultsWriter:
    """Context that writes the people of pictures and video frames, in the order they are added.

    The files of an earlier run are replaced at its end, also after an error, but only if something
    was added. Else nothing that was begun stays.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, calibration: Calibration | None = None
    ) -> None:
        """calibration: adds the `probabilities` of each result's keypoints."""
        self.pictures, self.poses = 0, 0  # added so far
        self._folder, self._manifest, self._calibration = folder, manifest, calibration
        self._open_files = contextlib.ExitStack()
        self._begun: list[str] = []  # names in FILES that have a temporary file

    def __enter__(self) -> ResultsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pictures:
            self._results.write("\n]\n")
            self._images.write("\n ]\n}\n")
        self._open_files.close()
        for name in self._begun:
            if self.pictures:
                move_into_place(self._temporary(name), self._folder / name)
            else:
                self._temporary(name).unlink()

    def add_picture(self, name: str, number: int | None, image: Image, people: People) -> None:
        """Add a picture. number: its image id; None numbers pictures and frames from 1."""
        self._add_({"file_name": name}, number, image, people, ["", ""])

    def add_frame(self, video: str, frame: Frame, people: People) -> None:
        """Add a frame of a video."""
        seconds = round(frame.seconds, 6)
        entry = {"file_name": f"{video}/{frame.index}", "frame": frame.index, "seconds": seconds}
        self._add_(entry, None, frame.image, people, [frame.index, seconds])

    def _add_(
        self, entry: dict[str, Any], number: int | None, image: Image, people: People,
        position: list[Any],
    ) -> None:  # fmt: skip
        if not self.pictures:
            self._start_()
        image_id = self.pictures + 1 if number is None else number
        size = {"width": image.shape[1], "height": image.shape[0]}
        self._write_(self._images, self.pictures, {"id": image_id, **entry, **size}, 2)
        records = to_results(
            image_id, self._manifest.category_id, people.keypoints, people.keypoint_scores,
            people.scores,
        )  # fmt: skip
        ids = [] if people.track_ids is None else people.track_ids.tolist()
        for index, record in enumerate(records):
            track = {"track_id": ids[index]} if ids else {}
            more = track | self._probabilities(people.keypoint_scores[index])
            self._write_(self._results, self.poses + index, record | more, 1)
            box = people.boxes_xywh[index].round(2).tolist()
            first = [entry["file_name"], *position, track.get("track_id", ""), record["score"]]
            self._rows.writerow([*first, *box, *record["keypoints"]])
        self.pictures, self.poses = self.pictures + 1, self.poses + len(records)

    def _probabilities(self, scores: NDArray[np.float64]) -> dict[str, list[float]]:
        """Those of one person's keypoint scores (K,), if there is a calibration."""
        if self._calibration is None:
            return {}
        return {"probabilities": self._calibration(scores).round(4).tolist()}

    def _start_(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._results, self._images, table = (self._opened(name) for name in FILES)
        self._results.write("[")
        self._images.write('{\n "images": [')
        self._rows = csv.writer(table, lineterminator="\n")
        self._rows.writerow(columns(self._manifest.skeleton.names))

    def _write_(self, file: IO[str], count: int, record: dict[str, Any], depth: int) -> None:
        """Append a record as write_json would; count: of the records before."""
        text = json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False)
        file.write(("," if count else "") + f"\n{text}".replace("\n", "\n" + " " * depth))

    def _opened(self, name: str) -> IO[str]:
        file = self._temporary(name).open("w", encoding="utf-8", errors="surrogateescape")
        self._begun.append(name)
        return self._open_files.enter_context(file)

    def _temporary(self, name: str) -> Path:
        return self._folder / f"{name}.tmp"


def columns(names: Sequence[str]) -> list[str]:
    """Header of results.csv: one row is one person in one picture or frame."""
    first = ["file_name", "frame", "seconds", "track_id", "score"]
    box = [f"box_{value}" for value in ("x", "y", "width", "height")]
    return [*first, *box, *(f"{name}_{value}" for name in names for value in ("x", "y", "score"))]


def numeric_ids(sources: Sequence[Path | Stream]) -> dict[Path | Stream, int]:
    """Image ids from file names as in COCO; {} unless all are pictures with distinct numbers."""
    stems = [source.stem for source in sources]
    numeric = all(
        stem.isdecimal() and not is_video(s) for s, stem in zip(sources, stems, strict=True)
    )
    numbers = [int(stem) for stem in stems] if numeric else []
    return dict(zip(sources, numbers, strict=True)) if len({*numbers}) == len(sources) else {}


def overlay_paths(sources: Sequence[Path | Stream], folder: Path) -> dict[Path | Stream, Path]:
    """Overlay path per input; inputs with the same name get a number."""
    chosen: dict[Path | Stream, Path] = {}
    taken: set[str] = set()
    for source in sources:
        suffix, name, count = ".mp4" if is_video(source) else ".jpg", source.stem, 1
        while f"{name}{suffix}" in taken:
            count += 1
            name = f"{source.stem}-{count}"
        taken.add(f"{name}{suffix}")
        chosen[source] = folder / f"{name}{suffix}"
    return chosen


def require_inputs_stay(inputs: Iterable[Path | Stream], outputs: Iterable[Path]) -> None:
    """Raise PoseError if an output would replace an input, also if a link leads there."""
    files = {source.resolve() for source in inputs if isinstance(source, Path)}
    for output in outputs:
        if output.resolve() in files:
            raise PoseError(f"{output} is an input and would be replaced; choose another --out")
