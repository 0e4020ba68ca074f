"""Write the page people look at: the result, what changed, where it fails, pictures, provenance.

    python stages/report.py

Reads metrics/, data/cache, data/predictions, the final model (for its heatmaps), and the accepted
run in metrics/baseline; writes report/index.html (one file, no network), the same as Markdown with
its pictures to metrics/report, and there what each step gained. About 10 s on two cores with the
embedded default.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from pose.common import stage
from pose.common.files import read_json, write_atomic
from pose.common.log import log
from pose.common.params import Params
from pose.crop_table import CropTable
from pose.models.checkpoint import read_provenance
from pose.report import charts, pictures, tables
from pose.report.page import Page, Pictures, Section, Text, number, render_html, render_markdown

NAME = "report"
TEMPLATES = Path(__file__).parent / "pose" / "report"
FOLDER = stage.METRICS / NAME
EVALUATE = stage.METRICS / "evaluate"
BASELINE = stage.METRICS / "baseline"
ABLATION = ("model", "decoder", "tta", *tables.STATS)


def main(params: Params) -> None:
    headline = read_json(EVALUATE / "metrics.json")
    ablation = tables.read_table(EVALUATE / "ablation.csv", *ABLATION)
    final = tables.final_row(ablation, params.evaluate.headline_tta) if len(ablation) else None
    gains = tables.gains(ablation, final) if final is not None else {}
    sections, said = [_result(params, headline)], []
    if final is not None:
        sections += _measured(params, ablation, final, gains)
        said = [tables.final_text(ablation, final)]
    sections += [_training(), _data(), _provenance()]
    page = Page(
        title=f"Pose report: AP {number(headline.get('AP'))}",
        lead=" ".join([*tables.measured_text(headline), *said]),
        sections=tuple(sections),
    )
    with stage.live(NAME) as live:  # first: it clears the folder of its own kinds of files
        live.summary.update(gains)
    _write(page)
    log(f"{NAME}: open {stage.REPORT / 'index.html'}")


def _write(page: Page) -> None:
    """The page, its Markdown, and the pictures: those of an earlier run go."""
    folder = FOLDER / "pictures"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)  # dvc.yaml declares it, even if there is nothing to draw
    for picture in page.pictures:
        write_atomic(folder / picture.name, picture.content)
    write_atomic(FOLDER / "report.md", render_markdown(page, TEMPLATES, folder.name).encode())
    write_atomic(stage.REPORT / "index.html", render_html(page, TEMPLATES).encode())


def _table(name: str, *columns: str) -> pd.DataFrame:
    return tables.read_table(EVALUATE / f"{name}.csv", *columns)


def _result(params: Params, headline: dict[str, float]) -> Section:
    """The headline beside the baseline's, where it fails, and which params differ."""
    sections = params.model_dump(mode="json")
    here = tables.flatten(sections)
    accepted = tables.read_flat(BASELINE / "params.yaml", sections)
    paths = sorted((stage.ROOT / "recipes").glob("*.yaml"))
    recipes = {path.stem: tables.read_flat(path, sections) for path in paths}
    blocks = (
        *tables.headline(headline, read_json(BASELINE / "metrics.json")),
        tables.other_data(tables.differences(here, accepted)),
        *tables.params_blocks(*tables.nearest(here, accepted, recipes)),
    )
    return Section("Result", blocks)


def _measured(
    params: Params, ablation: pd.DataFrame, final: int, gains: dict[str, float]
) -> list[Section]:
    """All that needs ground truth."""
    keypoints = _table("keypoints", "keypoint", "labelled", "found", "AP", "PCK", "oks")
    errors = _table("errors", "kind", "share", "ap_gain")
    groups = _table("groups", "group", "bin", "persons", "AP", "oks")
    weights = stage.MODELS / f"{ablation['model'].tolist()[final]}.safetensors"
    return [
        Section("Where it fails", (tables.verdict(keypoints, errors, groups),)),
        *_persons(params, weights),
        Section("Errors", charts.errors(errors)),
        Section("Keypoints", charts.keypoints(keypoints)),
        Section("Size, occlusion, crowding", charts.groups(groups)),
        Section("Curves", charts.scores(*_curves())),
        Section("Combinations", tables.combinations(ablation, final, gains)),
    ]


def _persons(params: Params, weights: Path) -> list[Section]:
    """Predictions to look at, and heatmaps."""
    skeleton, table = stage.skeleton(), CropTable(stage.CACHE / "val")
    people = pictures.read_people(stage.PREDICTIONS / "persons.json")
    if not people:
        return []
    count = params.report.examples
    overlays = pictures.overlays(people, table, skeleton, count)
    worst = tables.worst(pictures.worst_rows(people, table, count))
    sections = [Section("Predictions", (Pictures(tuple(overlays), wide=True), worst))]
    if params.report.heatmaps:
        maps = pictures.heatmaps(params, skeleton, table, people, weights)
        sections.append(Section("Heatmaps", (Pictures((maps,), wide=True),)))
    return sections


def _curves() -> tuple[pd.DataFrame, ...]:
    return (
        _table("pr", "oks_thr", "recall", "precision"),
        _table("oks", "oks_thr", "share"),
        _table("calibration", "bin", "count", "score", "oks"),
    )


def _training() -> Section:
    return Section("Training", charts.training(stage.METRICS))


def _data() -> Section:
    loaded = read_json(stage.METRICS / "download_coco" / "metrics.json")
    coverage = tables.read_table(stage.METRICS / "build_cache" / "keypoints.csv", "keypoint")
    blocks = (
        tables.counts_table("Images and persons in the files", loaded),
        tables.counts_table("Persons in the cache", read_json(stage.CACHE / "summary.json")),
        tables.quarantine(read_json(stage.CACHE / "quarantine.json")),
        tables.coverage_table(coverage),
    )
    return Section("Data", blocks)


def _provenance() -> Section:
    """Of the weights, the data and the code that others wrote."""
    licence = Text(("Weights trained from others keep to their licence.",))
    blocks = (
        tables.weights_table(read_provenance(stage.WEIGHTS)),
        licence,
        tables.hashes_table(Path("dvc.lock"), stage.definition(NAME)["deps"]),
        tables.versions_table(),
    )
    return Section("Provenance", blocks)


if __name__ == "__main__":
    stage.run(NAME, __doc__, main)
