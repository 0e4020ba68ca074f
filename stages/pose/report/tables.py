"""The report's tables and sentences, made from what the stages before it measured.

In the order of the page: result, params, where the model fails, ablation, data, provenance.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pose.common.errors import PoseError
from pose.common.params import Data
from pose.common.skeleton import OTHER_OKS_SIGMA, are_cocos, parts_of
from pose.report.baseline import Settings
from pose.report.page import Cards, Table, Text, number, signed

MAIN_METRICS = ("AP", "AP50", "AP75", "AR")
COCO_METRICS = ("AP", "AP50", "AP75", "APm", "APl", "AR")
TTA_LABELS = {"none": "one view", "flip": "flip", "multiscale": "flip + scales"}
PACKAGES = ("torch", "numpy", "opencv-python-headless", "pyarrow", "pycocotools", "dvc")
ABSENT = "absent"
DATA_SECTIONS = ("data", "synthetic", "keypoints")  # of params.yaml: what the data are made of
UNREAD = ("data.root", "keypoints.skeleton")  # path; only for drawings
MAX_PARAMS = 4  # of those that differ, in the page's first lines
MAX_KEYPOINTS = 40  # rows and bars; of more keypoints the lowest values are shown
Difference = tuple[str, Any, Any]  # section.key, value there, value here


def read_table(path: Path, *columns: str) -> pd.DataFrame:
    """A csv file with at least these columns; it may have no rows.

    Raises PoseError if the file is missing, unreadable, or lacks a column.
    """
    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise PoseError(f"{path}: no such file; run the stage that writes it first") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise PoseError(
            f"{path}: not a readable table ({error}); rerun the stage that writes it"
        ) from None
    if missing := [name for name in columns if name not in table.columns]:
        raise PoseError(f"{path}: no column {missing[0]!r}; rerun the stage that writes it")
    return table


def metric_table(caption: str, table: pd.DataFrame, key: str, columns: Sequence[str]) -> Table:
    """A data frame as a Table: the column `key` names the rows, `columns` are the others."""
    rows = [tuple(number(row[c]) for c in (key, *columns)) for row in table.to_dict("records")]
    return Table(caption, (key, *columns), rows)


def lowest(table: pd.DataFrame, column: str, path: str) -> tuple[pd.DataFrame, str]:
    """The MAX_KEYPOINTS rows with the lowest values, lowest first, and a note; else all rows, "".

    Rows without a value come last.
    """
    if len(table) <= MAX_KEYPOINTS:
        return table, ""
    shown = table.sort_values(column, kind="stable").head(MAX_KEYPOINTS)
    return shown, f"; the {MAX_KEYPOINTS} lowest of {len(table)}, all are in {path}"


# --- result


def protocol_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """What was evaluated, in which boxes, and why there are no scores if there are none."""
    sentences = [f"COCOeval on val; boxes: {metrics['boxes']}."]
    if not metrics.get("scored", True):
        sentences.append("Val has no annotations, so there are no scores.")
    if reason := metrics.get("reason"):
        sentences.append(f"{reason}.")
    return sentences


def dataset_name(data: Data) -> str:
    """Which data the result is of: rendered people, COCO's split, or the name of a folder."""
    if data.source == "local":
        return Path(data.root).name or data.root
    return "rendered people" if data.source == "synthetic" else f"COCO {data.val_split}"


def params_sentence(start: str, changed: Sequence[Difference]) -> str:
    """Whose params these are: a recipe's or the baseline's, and the first differences.

    >>> params_sentence("vitpose_b", [("train.lr", 0.1, 0.2)])
    'Params: those of vitpose_b, except train.lr = 0.2 (0.1).'
    """
    if not changed:
        return f"Params: those of {start}."
    listed = [f"{key} = {_text(new)} ({_text(old)})" for key, old, new in changed[:MAX_PARAMS]]
    if more := len(changed) - MAX_PARAMS:
        listed += [f"{more} more, listed below"] if more > 0 else []
    return f"Params: those of {start}, except {', '.join(listed)}."


def main_result(
    metrics: Mapping[str, Any], baseline: Mapping[str, Any] | None
) -> tuple[Cards, Table]:
    """The numbers among the metrics, compared with the baseline's if there is one."""
    numbers = {
        name: value
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    before = baseline or {}
    changes = {name: change(value, before.get(name)) for name, value in numbers.items()}
    cards = [
        (
            name,
            number(numbers[name]),
            "" if before.get(name) is None else f"change {changes[name]}",
        )
        for name in MAIN_METRICS
        if name in numbers
    ]
    if baseline is None:
        rows = [(name, number(value)) for name, value in numbers.items()]
        return Cards(tuple(cards)), Table("This run", ("metric", "this run"), rows)
    compared = [
        (name, number(value), number(before.get(name)), changes[name])
        for name, value in numbers.items()
    ]
    columns = ("metric", "this run", "baseline", "change")
    return Cards(tuple(cards)), Table("This run and the committed baseline", columns, compared)


def sigmas_sentence(names: Sequence[str], given: Sequence[float] | None) -> str:
    """Which OKS sigmas AP was computed with, and where they are from.

    >>> sigmas_sentence(["nose", "tail"], None)
    "OKS sigmas: 0.067 for each of 2 keypoints (the default for names other than COCO's)."
    """
    if given is not None:
        low, high = min(given), max(given)
        span = f"{low:g} for each" if low == high else f"{low:g} to {high:g}"
        return (
            f"OKS sigmas: {span} of {len(names)} keypoints (keypoints.oks_sigmas of params.yaml)."
        )
    if are_cocos(names):
        return "OKS sigmas: COCO's 17."
    if parts_of(names):
        return f"OKS sigmas: COCO-WholeBody's, for {len(names)} keypoints."
    origin = "the default for names other than COCO's"
    return f"OKS sigmas: {OTHER_OKS_SIGMA:g} for each of {len(names)} keypoints ({origin})."


def change(value: float, baseline: float | None) -> str:
    """value - baseline, signed; a dash if either was not measured (None, or COCOeval's -1)."""
    if baseline is None or baseline == -1 or value == -1:
        return signed(None)
    return signed(value - baseline)


# --- params


def differences(here: Settings, there: Settings) -> list[Difference]:
    """Keys whose values differ, in the order of `here`; keys that only `there` has come last."""
    keys = [*here, *(key for key in there if key not in here)]
    pairs = ((key, there.get(key, ABSENT), here.get(key, ABSENT)) for key in keys)
    return [(key, old, new) for key, old, new in pairs if old != new]


def nearest_settings(
    here: Settings, baseline: Settings, recipes: Mapping[str, Settings]
) -> tuple[str, list[Difference]]:
    """(name, differences) of the baseline or the recipe with the fewest differences.

    A recipe lists some keys only; the others are taken from the baseline.
    """
    candidates = {"the baseline": baseline}
    candidates |= {name: baseline | settings for name, settings in recipes.items()}
    by_name = {name: differences(here, settings) for name, settings in candidates.items()}
    name = min(by_name, key=lambda name: len(by_name[name]))
    return name, by_name[name]


def changed_params(start: str, changed: Sequence[Difference]) -> Table | Text:
    """The params that differ from those of `start`."""
    if not changed:
        return Text((f"All params are those of {start}.",))
    rows = [(key, *map(_text, values)) for key, *values in changed]
    return Table(f"Params that differ from {start}", ("param", start, "this run"), rows)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def data_warning(changed: Sequence[Difference]) -> Text:
    """A warning if the baseline was measured on other data, else empty."""
    keys = [
        key
        for key, old, _ in changed
        if key.split(".")[0] in DATA_SECTIONS and key not in UNREAD and old != ABSENT
    ]
    if not keys:
        return Text(())
    listed = ", ".join(keys)
    return Text((f"The baseline was measured on other data ({listed}): compare with care.",))


# --- where the model fails


def failure_summary(keypoints: pd.DataFrame, errors: pd.DataFrame, groups: pd.DataFrame) -> Text:
    """The weakest keypoints, the worst kinds of error and the hardest group, a sentence each."""
    sentences = []
    if len(weakest := keypoints[keypoints["labelled"] > 0].nsmallest(3, "found")):
        names = ", ".join(
            f"{row['keypoint']} ({row['found']:.0%} found)" for row in weakest.to_dict("records")
        )
        sentences.append(f"Weakest keypoints: {names}.")
    if kinds := errors[errors["kind"] != "good"].to_dict("records"):
        frequent, costly = (max(kinds, key=lambda row: row[key]) for key in ("share", "ap_gain"))
        sentences.append(
            f"Most frequent error: {frequent['kind']}, {frequent['share']:.1%} of the keypoints. "
            f"Most costly error: {costly['kind']}; correcting it would change AP by "
            f"{signed(float(costly['ap_gain']))}."
        )
    measured = groups[(groups["persons"] > 0) & (groups["AP"] >= 0)]
    if len(hardest := measured.nsmallest(1, "AP")):
        row = hardest.iloc[0]
        sentences.append(
            f"Hardest group: {row['group']} {row['bin']}, AP {number(float(row['AP']))} "
            f"({row['persons']} people)."
        )
    return Text(tuple(sentences))


# --- ablation: models, decoders and test-time augmentation


def final_row(ablation: pd.DataFrame, tta: str) -> int:
    """Index of the combination whose metrics are the main result.

    It is that of the last single model, the sub-pixel decoder and this test-time augmentation.
    """
    candidates = ablation[(ablation["decoder"] != "argmax") & (ablation["tta"] == tta)]
    return int(candidates[candidates["model"] != "ensemble"].index[-1])


def final_sentence(ablation: pd.DataFrame, final: int) -> str:
    """Which model, decoder and test-time augmentation the main result is of."""
    model, decoder, tta = (str(ablation.loc[final, key]) for key in ("model", "decoder", "tta"))
    return f"The final combination: {model}, {decoder}, {TTA_LABELS[tta]}."


def ap_gains(ablation: pd.DataFrame, final: int) -> dict[str, float]:
    """AP that each step adds, everything else as in the final combination."""
    ap = _ap_by_combination(ablation)
    model, decoder, tta = (str(ablation.loc[final, key]) for key in ("model", "decoder", "tta"))
    pairs = {
        after: ((after, decoder, tta), (before, decoder, tta))
        for before, after in pairwise(dict.fromkeys(model for model, _, _ in ap))
    }
    pairs["flip"] = (model, decoder, "flip"), (model, decoder, "none")
    pairs["multiscale"] = (model, decoder, "multiscale"), (model, decoder, "flip")
    pairs[decoder] = (model, decoder, tta), (model, "argmax", tta)
    return {
        name: round(ap[with_it] - ap[without], 4)
        for name, (with_it, without) in pairs.items()
        if with_it in ap and without in ap
    }


def _ap_by_combination(ablation: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    """AP by (model, decoder, tta)."""
    return {
        (row["model"], row["decoder"], row["tta"]): float(row["AP"])
        for row in ablation.to_dict("records")
    }


def ablation_blocks(
    ablation: pd.DataFrame, final: int, gains: Mapping[str, float]
) -> tuple[Text | Table, ...]:
    """What each training step, decoder and test-time augmentation gains."""
    steps = ", ".join(f"{name} {signed(gain)}" for name, gain in gains.items())
    text = f"AP gain of each step, everything else as in the final combination: {steps}."
    return Text((text,) if steps else ()), tta_table(ablation), ablation_table(ablation, final)


def tta_table(ablation: pd.DataFrame) -> Table:
    """AP by test-time augmentation, one row per model and decoder."""
    ap = _ap_by_combination(ablation)
    modes = [mode for mode in TTA_LABELS if mode in set(ablation["tta"])]
    rows = []
    for model, decoder in dict.fromkeys((model, decoder) for model, decoder, _ in ap):
        values = [ap.get((model, decoder, mode), math.nan) for mode in modes]
        cells = [f"{model}, {decoder}", number(values[0])]
        for before, after in pairwise(values):
            cells += [number(after), signed(after - before)]
        rows.append(cells)
    columns = ["model, decoder", TTA_LABELS[modes[0]]]
    for mode in modes[1:]:
        columns += [TTA_LABELS[mode], "gain"]
    return Table("AP by test-time augmentation", tuple(columns), rows)


def ablation_table(ablation: pd.DataFrame, final: int) -> Table:
    """COCO's metrics of all combinations."""
    rows = [
        (
            row["model"],
            row["decoder"],
            TTA_LABELS.get(row["tta"], row["tta"]),
            *(number(row[metric]) for metric in COCO_METRICS),
        )
        for row in ablation.to_dict("records")
    ]
    columns = ("model", "decoder", "TTA", *COCO_METRICS)
    caption = (
        "All models, decoders and test-time augmentations (TTA); the final combination in bold"
    )
    return Table(caption, columns, rows, bold=final)


def main_rows(ablation: pd.DataFrame) -> pd.DataFrame:
    """The rows of the main val; those of further vals have their name in the column `val`."""
    return ablation[ablation["val"].isna()] if "val" in ablation else ablation


def further_table(ablation: pd.DataFrame, persons: Mapping[str, tuple[int, int]]) -> Table | None:
    """COCO's metrics of the further vals, if any; persons: (people, keypoints) of each."""
    if "val" not in ablation:
        return None
    rows = []
    for row in ablation[ablation["val"].notna()].to_dict("records"):
        counts = (number(count) for count in persons[str(row["val"])])
        rows.append((row["val"], row["model"], *counts, *(number(row[m]) for m in COCO_METRICS)))
    caption = (
        "Further vals (data.also_val), in their own boxes and on the keypoints that they have: not "
        "comparable with the main result, nor with each other"
    )
    return Table(caption, ("val", "model", "people", "keypoints", *COCO_METRICS), rows)


# --- data


def counts_table(caption: str, counts: Mapping[str, Any]) -> Table:
    rows = [(name.replace("_", " "), number(value, 2)) for name, value in counts.items()]
    return Table(caption, ("what", "count"), rows)


def coverage_table(coverage: pd.DataFrame) -> Table:
    caption = "Share of the people with keypoints for whom this keypoint is labelled"
    path = "metrics/build_cache/keypoints.csv"
    shown, note = lowest(coverage, "train_in_crop", path)
    return metric_table(caption + note, shown, "keypoint", tuple(coverage.columns[1:]))


def quarantine(records: Sequence[Mapping[str, str]]) -> Text | Table:
    """The records that build_cache skipped, and why."""
    if not records:
        return Text(("No record was skipped.",))
    rows = [(record["record"], record["file"], record["reason"]) for record in records]
    return Table("Skipped records", ("record", "file", "reason"), rows)


# --- provenance


def weights_table(provenance: Mapping[str, Any]) -> Table:
    rows = [(name, str(value)) for name, value in provenance.items()]
    return Table("Initial weights of the backbone", ("what", "value"), rows)


def hashes_table(lock: Path, deps: Sequence[str]) -> Table | Text:
    """md5 and size, from dvc.lock, of the data and models among `deps`."""
    try:
        stages = yaml.load(lock.read_bytes(), yaml.CSafeLoader)["stages"]  # 1 s less than ruamel
    except FileNotFoundError:
        return Text(("No hashes: dvc.lock does not exist yet.",))
    outs = [out for entry in stages.values() for out in entry.get("outs", [])]
    rows = [
        (out["path"], out["md5"], number(out["size"]))
        for out in outs
        if out["path"] in deps and out["path"].startswith(("data/", "models/"))
    ]
    return Table("Data and models, from dvc.lock", ("path", "md5", "bytes"), rows)


def versions_table() -> Table:
    python = ".".join(platform.python_version_tuple()[:2])  # another patch release changes nothing
    rows = [("python", python), *((name, version(name)) for name in PACKAGES)]
    return Table("Versions; the rest is in requirements.txt", ("package", "version"), rows)
