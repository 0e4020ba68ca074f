"""The report's words and tables, from what the stages before it measured.

No stage itself.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Container, Mapping, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from ruamel.yaml import YAML

from pose.common.errors import PoseError
from pose.report.page import Cards, Table, Text, number, signed

CARDS = ("AP", "AP50", "AP75", "AR")
STATS = ("AP", "AP50", "AP75", "APm", "APl", "AR")
TTA = {"none": "one view", "flip": "flip", "multiscale": "flip + scales"}
PACKAGES = ("torch", "numpy", "opencv-python-headless", "pyarrow", "pycocotools", "dvc")
ABSENT = "absent"
Flat = dict[str, Any]  # section.key -> value
Difference = tuple[str, Any, Any]  # section.key, there, here


def read_table(path: Path, *columns: str) -> pd.DataFrame:
    """A csv with at least these columns; no rows is fine. Raises PoseError naming what is wrong."""
    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise PoseError(f"{path}: no such file; the stage that makes it has to run first") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise PoseError(f"{path}: not a readable table ({error}); run its stage again") from None
    if missing := [name for name in columns if name not in table.columns]:
        raise PoseError(f"{path}: lacks the column {missing[0]!r}; run its stage again")
    return table


# --- the result and what changed


def headline(found: Mapping[str, Any], baseline: Mapping[str, Any]) -> tuple[Cards, Table]:
    """The headline's numbers beside the baseline's."""
    numbers = {
        name: value
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    cards = [
        (name, number(numbers[name]), _compared(numbers[name], baseline.get(name)))
        for name in CARDS
        if name in numbers
    ]
    rows = [
        (name, number(value), number(baseline.get(name)), delta(value, baseline.get(name)))
        for name, value in numbers.items()
    ]
    columns = ("metric", "this run", "baseline", "change")
    return Cards(tuple(cards)), Table("Headline and the committed baseline", columns, rows)


def delta(value: float, before: float | None) -> str:
    """What changed, signed; nothing where one of the two is not known or -1."""
    if before is None or before == -1 or value == -1:
        return signed(None)
    return signed(value - before)


def _compared(value: float, before: float | None) -> str:
    return f"change {delta(value, before)}" if before is not None else ""


def verdict(keypoints: pd.DataFrame, errors: pd.DataFrame, groups: pd.DataFrame) -> Text:
    """Where the model fails, in a sentence each."""
    lines = []
    if len(weak := keypoints[keypoints["labelled"] > 0].nsmallest(3, "found")):
        names = ", ".join(
            f"{row['keypoint']} ({row['found']:.0%} found)" for row in weak.to_dict("records")
        )
        lines.append(f"Weakest keypoints: {names}.")
    wrong = errors[errors["kind"] != "good"].to_dict("records")
    if wrong:
        often, dear = (max(wrong, key=lambda row: row[key]) for key in ("share", "ap_gain"))
        lines.append(
            f"Most frequent error: {often['kind']}, {often['share']:.1%} of the keypoints. Most "
            f"costly: {dear['kind']}; without it AP would gain {signed(float(dear['ap_gain']))}."
        )
    measured = groups[(groups["persons"] > 0) & (groups["AP"] >= 0)]
    if len(low := measured.nsmallest(1, "AP")):
        row = low.iloc[0]
        lines.append(
            f"Hardest group: {row['group']} {row['bin']}, AP {number(float(row['AP']))} "
            f"({row['persons']} persons)."
        )
    return Text(tuple(lines))


# --- tables of evaluate


def worst(rows: Sequence[tuple[str, ...]]) -> Table:
    return Table("The worst, to look up", ("annotation", "image", "OKS"), rows)


def frame(caption: str, table: pd.DataFrame, name: str, columns: Sequence[str]) -> Table:
    """Columns of a table, numbers as the page shows them; `name` is the row's."""
    rows = [tuple(number(row[key]) for key in (name, *columns)) for row in table.to_dict("records")]
    return Table(caption, (name, *columns), rows)


def final_row(ablation: pd.DataFrame, tta: str) -> int:
    """Index of the headline's combination: the last single model's, refined peaks, these views."""
    asked = ablation[(ablation["decoder"] != "argmax") & (ablation["tta"] == tta)]
    return int(asked[asked["model"] != "ensemble"].index[-1])


def measured_text(headline: Mapping[str, Any]) -> list[str]:
    """What was measured, in whose boxes, and why there are no numbers if there are none."""
    said = [f"COCOeval on the persons of val; boxes: {headline['boxes']}."]
    if not headline.get("scored", True):
        said.append("Val has no annotations, so nothing is scored.")
    if reason := headline.get("reason"):
        said.append(f"{reason}.")
    return said


def final_text(ablation: pd.DataFrame, final: int) -> str:
    """What the headline's numbers are of."""
    model, decoder, tta = (str(ablation.loc[final, key]) for key in ("model", "decoder", "tta"))
    return f"The final combination: {model}, {decoder}, {TTA[tta]}."


def gains(ablation: pd.DataFrame, final: int) -> dict[str, float]:
    """AP that each step adds, everything else as in the final combination."""
    ap = _ap_by(ablation)
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


def _ap_by(ablation: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    """AP by model, decoder and tta."""
    return {
        (row["model"], row["decoder"], row["tta"]): float(row["AP"])
        for row in ablation.to_dict("records")
    }


def combinations(
    ablation: pd.DataFrame, final: int, found: Mapping[str, float]
) -> tuple[Text | Table, ...]:
    """What each step, view and decoder is worth."""
    return gains_text(found), view_table(ablation), ablation_table(ablation, final)


def gains_text(found: Mapping[str, float]) -> Text:
    steps = ", ".join(f"{name} {signed(gain)}" for name, gain in found.items())
    return Text((f"AP gained, the rest as in the final combination: {steps}.",) if steps else ())


def view_table(ablation: pd.DataFrame) -> Table:
    """AP of one view, with its mirror image, with scales: a row a model and decoder."""
    ap = _ap_by(ablation)
    kinds = [kind for kind in TTA if kind in set(ablation["tta"])]
    rows = [
        (f"{model}, {decoder}", *_views([ap.get((model, decoder, k), math.nan) for k in kinds]))
        for model, decoder in dict.fromkeys((model, decoder) for model, decoder, _ in ap)
    ]
    columns = ["model, decoder", TTA[kinds[0]]]
    for kind in kinds[1:]:
        columns += [TTA[kind], "adds"]
    return Table("Flip and scale: AP, and what each view adds", tuple(columns), rows)


def _views(aps: Sequence[float]) -> list[str]:
    cells = [number(aps[0])]
    for before, ap in pairwise(aps):
        cells += [number(ap), signed(ap - before)]
    return cells


def ablation_table(ablation: pd.DataFrame, final: int) -> Table:
    rows = [
        (
            row["model"],
            row["decoder"],
            TTA.get(row["tta"], row["tta"]),
            *(number(row[s]) for s in STATS),
        )
        for row in ablation.to_dict("records")
    ]
    columns = ("model", "decoder", "views", *STATS)
    return Table("Every combination; the final one in bold", columns, rows, final)


# --- data


def counts_table(caption: str, counts: Mapping[str, Any]) -> Table:
    rows = [(name.replace("_", " "), number(value, 2)) for name, value in counts.items()]
    return Table(caption, ("what", "count"), rows)


def coverage_table(coverage: pd.DataFrame) -> Table:
    caption = "Share of the persons with keypoints that have this one labelled"
    return frame(caption, coverage, "keypoint", ("train", "train_in_crop", "val"))


def quarantine(records: Sequence[Mapping[str, str]]) -> Text | Table:
    """What was left out and why."""
    if not records:
        return Text(("No record was left out.",))
    rows = [(one["record"], one["file"], one["reason"]) for one in records]
    return Table("Left out", ("record", "file", "reason"), rows)


# --- params


def flatten(params: Mapping[str, Any]) -> Flat:
    """section.key -> value, of sections of keys."""
    return {
        f"{section}.{key}": value
        for section, keys in params.items()
        for key, value in dict(keys).items()
    }


def read_flat(path: Path, sections: Container[str]) -> Flat:
    """flatten of these sections of a params.yaml or a recipe, as they stand, not validated."""
    found = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")) or {}
    return flatten({name: keys for name, keys in found.items() if name in sections})


def differences(here: Flat, there: Flat) -> list[Difference]:
    """Keys whose values differ, in the order of `here`; those that only `there` has come last."""
    keys = [*here, *(key for key in there if key not in here)]
    pairs = ((key, there.get(key, ABSENT), here.get(key, ABSENT)) for key in keys)
    return [(key, old, new) for key, old, new in pairs if old != new]


def nearest(
    here: Flat, baseline: Flat, recipes: Mapping[str, Flat]
) -> tuple[str, list[Difference]]:
    """The baseline, or the recipe over it, that the fewest keys tell apart, and those keys."""
    starts = {"the baseline": baseline} | {name: baseline | keys for name, keys in recipes.items()}
    found = {name: differences(here, start) for name, start in starts.items()}
    name = min(found, key=lambda name: len(found[name]))
    return name, found[name]


def params_blocks(start: str, rows: Sequence[Difference]) -> tuple[Text | Table, ...]:
    """What was set otherwise than where the run started from."""
    if not rows:
        return (Text((f"All params are those of {start}.",)),)
    cells = [(key, _value(old), _value(new)) for key, old, new in rows]
    return (Table(f"Params that differ from {start}", ("param", start, "this run"), cells),)


def other_data(changed: Sequence[Difference]) -> Text:
    """A warning if the baseline was measured on other data."""
    keys = [key for key, old, _ in changed if _of_data(key) and old != ABSENT]
    if not keys:
        return Text(())
    return Text(
        (f"The baseline was measured on other data ({', '.join(keys)}): compare with care.",)
    )


def _of_data(key: str) -> bool:
    return key.split(".")[0] in ("data", "synthetic", "keypoints")


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# --- provenance


def weights_table(provenance: Mapping[str, Any]) -> Table:
    rows = [(name, str(value)) for name, value in provenance.items()]
    return Table("The backbone's starting weights", ("what", "value"), rows)


def hashes_table(lock: Path, deps: Sequence[str]) -> Table | Text:
    """Digests of the data and models among `deps`, as DVC wrote them when their stages ended."""
    try:
        stages = yaml.load(lock.read_bytes(), yaml.CSafeLoader)["stages"]  # 1 s less than ruamel
    except FileNotFoundError:
        return Text(("No hashes: dvc.lock is not there yet.",))
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
