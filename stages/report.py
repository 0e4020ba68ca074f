"""Write the report page: warnings, result, what changed, where the model fails, pictures, data.

    python stages/report.py

Reads metrics/, data/cache, data/predictions, the final model (for its heatmaps), and the accepted
run in metrics/baseline. Writes report/index.html (one file that fetches nothing) and, to
metrics/report, the same page as Markdown with some of its pictures, and the AP gain of each step.
Takes about 10 s on two cores with the embedded default.
"""

from __future__ import annotations

from pose.common import stage

if __name__ == "__main__":
    stage.parse_arguments(__doc__)  # --help does not wait for the imports below

from collections.abc import Container
from pathlib import Path

import pandas as pd

from pose.common.files import read_json, write_atomic
from pose.common.log import log
from pose.common.params import Params
from pose.common.skeleton import Skeleton, describe_flip_pairs
from pose.crop_table import CropTable
from pose.draw import encode_jpeg, placeholder
from pose.models.checkpoint import read_provenance
from pose.report import charts, pictures, tables
from pose.report.baseline import (
    Settings,
    accepted_digest,
    flatten,
    not_compared,
    other_data,
    parse_settings,
)
from pose.report.page import (
    Page,
    Pictures,
    Section,
    Table,
    Text,
    number,
    render_html,
    render_markdown,
)

NAME = "report"
FOLDER = stage.METRICS / NAME
EVALUATE = stage.METRICS / "evaluate"
BASELINE = stage.METRICS / "baseline"
PICTURES = ("poses.jpg", "worst.jpg", "heatmaps.jpg")  # also as files in git


def main(params: Params) -> None:
    metrics = read_json(EVALUATE / "metrics.json")
    all_rows = _read("ablation", "model", "decoder", "tta", *tables.COCO_METRICS)
    ablation = tables.main_rows(all_rows)
    here, baseline, recipes = _settings(params)
    start, changed = tables.nearest_settings(here, baseline, recipes)
    lead = [_val_sentence(), tables.params_sentence(start, changed)]
    lead += tables.protocol_sentences(metrics)
    skeleton, gains = stage.skeleton(), {}
    result = _result(metrics, here, baseline, tables.changed_params(start, changed))
    sections = [*_warnings(), result]
    if len(ablation):  # without annotations of val there are no scores
        lead.append(tables.sigmas_sentence(skeleton.names, params.keypoints.oks_sigmas))
        final = tables.final_row(ablation, params.evaluate.headline_tta)
        gains = tables.ap_gains(ablation, final)
        lead.append(tables.final_sentence(ablation, final))
        sections += _scores(params, ablation, final, gains)
    if further := tables.further_table(all_rows, _further_persons()):
        sections.append(Section("Further vals", (further,)))
    sections += [Section("Training", charts.training(stage.METRICS))]
    sections += [_data(skeleton), _provenance()]
    title = f"Pose report: AP {number(metrics.get('AP'))} on {tables.dataset_name(params.data)}"
    with stage.live(NAME) as live:  # before the page: it deletes what an earlier run wrote there
        live.summary.update({f"ap_gain_{name}": gain for name, gain in gains.items()})
    _write(Page(title, " ".join(lead), tuple(sections)))
    log(f"{NAME}: open {stage.REPORT / 'index.html'}")


def _write(page: Page) -> None:
    """Write the page, its Markdown, and PICTURES beside it; a picture not made is a placeholder."""
    folder = FOLDER / "pictures"
    made = {picture.name: picture.content for picture in page.pictures}
    for name in PICTURES:
        text = "this run makes no such picture"
        write_atomic(folder / name, made.get(name) or encode_jpeg(placeholder(text)))
    write_atomic(FOLDER / "report.md", render_markdown(page, folder.name, PICTURES).encode())
    write_atomic(stage.REPORT / "index.html", render_html(page).encode())


def _read(name: str, *columns: str) -> pd.DataFrame:
    """A table that evaluate wrote."""
    return tables.read_table(EVALUATE / f"{name}.csv", *columns)


def _warnings() -> list[Section]:
    """What build_cache found in the data; it writes the file only if there is something."""
    path = stage.CACHE / "warnings.json"
    return [Section("Warnings", (Text(tuple(read_json(path))),))] if path.exists() else []


def _settings(params: Params) -> tuple[Settings, Settings, dict[str, Settings]]:
    """Params of this run, of the baseline, and of each recipe by its name."""
    sections = params.model_dump(mode="json", exclude_unset=True)  # as in a file of params
    baseline = _read_settings(BASELINE / "params.yaml", sections)
    paths = sorted((stage.ROOT / "recipes").glob("*.yaml"))
    recipes = {path.stem: _read_settings(path, sections) for path in paths}
    return flatten(sections), baseline, recipes


def _val_sentence() -> str:
    """How many images and people the result is of."""
    images = read_json(stage.CACHE / "ground_truth.json")["images"]
    people = len(CropTable(stage.CACHE / "val").labelled())
    return f"Val: {len(images):,} images, {people:,} people with keypoints."


def _result(
    metrics: dict[str, float], here: Settings, baseline: Settings, changed: Table | Text
) -> Section:
    """The main result and the params, both compared with the baseline."""
    accepted = accepted_digest(BASELINE)
    reasons = other_data(here, baseline, stage.CACHE / "ground_truth.json", accepted)
    before = None if reasons else read_json(BASELINE / "metrics.json")
    warning = tables.data_warning(tables.differences(here, baseline))
    blocks = (
        *tables.main_result(metrics, before),
        Text((not_compared(reasons),)) if reasons else warning,
        changed,
    )
    return Section("Result", blocks)


def _read_settings(path: Path, sections: Container[str]) -> Settings:
    return parse_settings(path.read_text(encoding="utf-8"), sections)


def _further_persons() -> dict[str, tuple[int, int]]:
    """People with keypoints and number of keypoints of each further val."""
    contents = {path.stem: read_json(path) for path in (stage.CACHE / "vals").glob("*.json")}
    return {
        name: (len(CropTable(stage.CACHE / "vals" / name).labelled()), len(content["keypoints"]))
        for name, content in contents.items()
    }


def _scores(
    params: Params, ablation: pd.DataFrame, final: int, gains: dict[str, float]
) -> list[Section]:
    """All sections that need ground truth."""
    keypoints = _read("keypoints", "keypoint", "labelled", "found", "AP", "PCK", "oks")
    errors = _read("errors", "kind", "share", "ap_gain")
    groups = _read("groups", "group", "bin", "persons", "AP", "oks")
    curves = charts.curves(
        _read("pr", "oks_thr", "recall", "precision"),
        _read("oks", "oks_thr", "share"),
        _read("calibration", "bin", "count", "score", "oks"),
        _read("keypoint_scores", "scores", "bin", "count", "score", "right"),
    )
    weights = stage.MODELS / f"{ablation['model'].tolist()[final]}.safetensors"
    return [
        Section("Where it fails", (tables.failure_summary(keypoints, errors, groups),)),
        *_predictions(params, weights),
        Section("Errors", charts.errors(errors)),
        Section("Keypoints", charts.keypoints(keypoints)),
        Section("Size, occlusion, crowding", charts.groups(groups)),
        Section("Curves", curves),
        Section("Ablation", tables.ablation_blocks(ablation, final, gains)),
    ]


def _predictions(params: Params, weights: Path) -> list[Section]:
    """Pictures of predicted poses and of heatmaps."""
    skeleton, table = stage.skeleton(), CropTable(stage.CACHE / "val")
    people = pictures.read_people(stage.PREDICTIONS / "persons.json")
    if not people:
        return []
    count = params.report.examples
    overlays = pictures.overlays(people, table, skeleton, count)
    worst = pictures.worst_table(people, table, count)
    sections = [Section("Predictions", (Pictures(tuple(overlays), wide=True), worst))]
    if params.report.heatmaps:
        heatmaps = pictures.heatmaps(params, skeleton, table, people, weights)
        sections.append(Section("Heatmaps", (Pictures((heatmaps,), wide=True),)))
    return sections


def _data(skeleton: Skeleton) -> Section:
    downloaded = read_json(stage.METRICS / "download_coco" / "metrics.json")
    coverage = tables.read_table(stage.METRICS / "build_cache" / "keypoints.csv", "keypoint")
    blocks = (
        tables.counts_table("Images and people in the annotation files", downloaded),
        tables.counts_table("People in the cache", read_json(stage.CACHE / "summary.json")),
        Text((f"{describe_flip_pairs(skeleton)}.",)),
        tables.quarantine(read_json(stage.CACHE / "quarantine.json")),
        tables.coverage_table(coverage),
    )
    return Section("Data", blocks)


def _provenance() -> Section:
    """Where weights, data and packages come from."""
    licence = Text(("Weights trained from other weights stay under the licence of those.",))
    blocks = (
        tables.weights_table(read_provenance(stage.WEIGHTS)),
        licence,
        tables.hashes_table(Path("dvc.lock"), stage.definition(NAME)["deps"]),
        tables.versions_table(),
    )
    return Section("Provenance", blocks)


if __name__ == "__main__":
    stage.run(NAME, main)
