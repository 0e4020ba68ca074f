"""Write the page people look at: numbers, curves, every combination, and predictions to look at.

    python stages/report.py

Reads metrics/, data/cache and data/predictions; writes report/index.html (one file, no network),
metrics/report (what each step gained) and metrics/report/poses.jpg. Seconds.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from numpy.typing import NDArray

import stage
from pose.cache import CropTable
from pose.checkpoint import read_provenance
from pose.errors import PoseError
from pose.figures import caption, draw_pose, encode_jpeg, enlarge, grid
from pose.files import read_json, write_atomic
from pose.log import log
from pose.params import Params
from pose.skeleton import Skeleton

NAME = "report"
TEMPLATE = "report.html.j2"
PHASES = {"train_phase1": "phase 1", "train_phase2": "phase 2", "train_ssl": "SSL"}
COLOURS = {"phase 1": "#7a869a", "phase 2": "#2f6fdf", "SSL": "#e07b24"}
CELL = 220  # pixels, height of a person in a picture


def main(params: Params) -> None:
    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "pose", "figure.dpi": 100, "font.size": 9})
    ablation = _table(stage.METRICS / "evaluate" / "ablation.csv")
    skeleton = stage.skeleton()
    table = CropTable(stage.CACHE / "val")
    people = _people(stage.PREDICTIONS / "persons.json", table, skeleton)
    count = params.report.examples
    spread = np.random.default_rng(0).permutation(len(people))[:count]
    poses = _picture([people[i] for i in sorted(spread)])
    middle = max(0, len(people) // 2 - count // 2)
    pictures = {
        "Persons drawn at random": poses,
        "The worst, by OKS": _picture(people[:count]),
        "Around the median": _picture(people[middle : middle + count]),
        "The best": _picture(people[-count:]),
    }
    headline = read_json(stage.METRICS / "evaluate" / "metrics.json")
    page = _render(
        boxes=headline.pop("boxes"),
        headline=headline,
        gains=_gains(ablation),
        curves=_svg(_curves),
        keypoints=_svg(_keypoint_bars, height=max(3.6, 0.2 * skeleton.num_keypoints)),
        ablation=ablation.to_dict("records"),
        pictures={title: _data_uri(picture) for title, picture in pictures.items()},
        counts=read_json(stage.CACHE / "summary.json"),
        coverage=_table(stage.METRICS / "build_cache" / "keypoints.csv").to_dict("records"),
        quarantine=read_json(stage.CACHE / "quarantine.json"),
        provenance=read_provenance(stage.MODELS / "ssl.safetensors"),
    )
    write_atomic(stage.REPORT / "index.html", page.encode())
    with stage.live(NAME) as live:
        live.summary.update({key: round(value, 4) for key, value in _gains(ablation).items()})
    write_atomic(stage.METRICS / NAME / "poses.jpg", poses)
    log(f"{NAME}: open {stage.REPORT / 'index.html'}")


def _table(path: Path, separator: str = ",") -> pd.DataFrame:
    """A csv file. Raises PoseError if it is absent or cut off."""
    try:
        return pd.read_csv(path, sep=separator)
    except FileNotFoundError:
        raise PoseError(f"{path}: no such file; the stage that makes it has to run first") from None
    except ValueError as error:
        raise PoseError(f"{path}: not a readable table ({error}); is it cut off?") from None


def _gains(ablation: pd.DataFrame) -> dict[str, float]:
    """AP that each step adds, everything else at its best setting (flip test, refined peaks)."""
    ap = ablation.set_index(["model", "flip", "decoder"])["AP"]
    refinement = next(name for name in ablation["decoder"] if name != "argmax")
    best = ap["ssl", True, refinement]
    return {
        "phase2": ap["phase2", True, refinement] - ap["phase1", True, refinement],
        "ssl": best - ap["phase2", True, refinement],
        "flip": best - ap["ssl", False, refinement],
        refinement: best - ap["ssl", True, "argmax"],
    }


def _people(path: Path, table: CropTable, skeleton: Skeleton) -> list[dict[str, Any]]:
    """Each labelled person of val with its prediction, the lowest OKS first."""
    people = [{**person, "table": table, "skeleton": skeleton} for person in read_json(path)]
    return sorted(people, key=lambda person: (person["oks"], person["row"]))


def _picture(people: list[dict[str, Any]]) -> bytes:
    return encode_jpeg(grid([_person(**person) for person in people], columns=6))


def _person(
    row: int,
    keypoints: list[list[float]] | None,
    oks: float,
    table: CropTable,
    skeleton: Skeleton,
) -> NDArray[np.uint8]:
    """The person's surroundings with the predicted pose, its OKS above."""
    crop, corner = table.crop(row), table.crop_xy[row]
    x, y, w, h = table.bbox_xywh[row] - [*corner, 0, 0]
    margin = 0.12 * h
    first = np.maximum([x - margin, y - margin], 0).astype(int)
    last = np.minimum([x + w + margin, y + h + margin], crop.shape[1::-1]).astype(int)
    view = crop[first[1] : last[1] + 1, first[0] : last[0] + 1]
    if keypoints is None:
        return caption(enlarge(view, CELL), "no box")
    points = (np.array(keypoints) - corner - first + 0.5) * (CELL / view.shape[0]) - 0.5
    labelled = table.keypoints[row][:, 2] > 0
    drawn = draw_pose(enlarge(view, CELL), skeleton, points, labelled, 2)
    return caption(drawn, f"OKS {oks:.2f}")


def _curves(axes: Any) -> None:
    """Training loss of the three phases, end to end."""
    start = 0.0
    for name, label in PHASES.items():
        loss = _table(stage.METRICS / name / "plots" / "metrics" / "loss.tsv", "\t")
        axes.plot(start + loss["step"], loss["loss"], color=COLOURS[label], label=label)
        start += float(loss["step"].max()) if len(loss) else 0.0
    axes.set(xlabel="step", ylabel="heatmap MSE", yscale="log")
    axes.legend(frameon=False)


def _keypoint_bars(axes: Any) -> None:
    """Share of labelled keypoints found."""
    table = _table(stage.METRICS / "evaluate" / "keypoints.csv")
    axes.barh(table["keypoint"], table["found"], color=COLOURS["phase 2"])
    axes.invert_yaxis()
    axes.set(xlabel="share of labelled keypoints with similarity > 0.5", xlim=(0, 1))


def _svg(draw: Any, height: float = 3.6) -> str:
    """A figure as inline SVG, its bytes stable; height in inches."""
    figure, axes = plt.subplots(figsize=(6.4, height), layout="constrained")
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _render(**values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
    )
    return environment.get_template(TEMPLATE).render(**values)


if __name__ == "__main__":
    stage.run(NAME, __doc__, main)
