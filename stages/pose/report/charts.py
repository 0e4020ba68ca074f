"""The report's charts, each with what it says in words, and the tables behind them.

No stage itself.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pose.report import svg_charts
from pose.report.page import Block, Picture, Pictures, Text
from pose.report.tables import frame

PHASES = {"train_phase1": "phase 1", "train_phase2": "phase 2", "train_ssl": "SSL"}

# of a training stage's plots: file, what it is, the axis' scale
CURVES = (
    ("loss", "Training loss, heatmap MSE", "log"),
    ("lr", "Learning rate", "linear"),
    ("grad_norm", "Gradient norm before clipping, L2", "log"),
    ("val_AP", "AP on val while training", "linear"),
)
THRESHOLDS = (0.5, 0.75, 0.9)  # OKS, of the precision-recall curves drawn


def training(metrics: Path) -> tuple[Block, ...]:
    """Curves of the three phases, end to end; a phase of no epochs has none."""
    drawn = []
    for name, title, scale in CURVES:
        found = {
            label: pd.read_csv(path, sep="\t")
            for stage, label in PHASES.items()
            if (path := metrics / stage / "plots" / "metrics" / f"{name}.tsv").exists()
        }
        found = {label: table for label, table in found.items() if len(table)}
        if found:
            drawn.append(_curve(name, title, scale, found))
    if not drawn:
        return (Text(("Nothing was trained: no phase has epochs.",)),)
    return (Pictures(tuple(drawn)),)


def _curve(name: str, title: str, scale: str, tables: dict[str, pd.DataFrame]) -> Picture:
    values = {label: table.iloc[:, 1].tolist() for label, table in tables.items()}
    ends = ", ".join(f"{label} from {y[0]:.3g} to {y[-1]:.3g}" for label, y in values.items())
    chart = svg_charts.lines(svg_charts.end_to_end(tables), "step", title, scale)
    return Picture(f"train_{name}.svg", chart, f"{title} over steps: {ends}", f"{title}.")


def errors(table: pd.DataFrame) -> tuple[Block, ...]:
    """Share of each kind of error; Ronchi & Perona 2017 name the kinds."""
    said = ", ".join(f"{row.kind} {row.share:.1%}" for row in table.itertuples())
    chart = svg_charts.bars(table["kind"].tolist(), table["share"].tolist(), "share of keypoints")
    picture = Picture(
        "errors.svg",
        chart,
        f"Share of keypoints by kind of error: {said}",
        "Jitter: near the right place; inversion: another keypoint of this person; swap: a "
        "keypoint of another person; miss: near none (Ronchi & Perona 2017).",
    )
    gains = frame("AP gained if this kind were corrected", table, "kind", ("share", "ap_gain"))
    return Pictures((picture,)), gains


def keypoints(table: pd.DataFrame) -> tuple[Block, ...]:
    """Share found of each, and its other measures."""
    order = table.sort_values("found", kind="stable").to_dict("records")
    low, high = order[0], order[-1]
    picture = Picture(
        "keypoints.svg",
        svg_charts.bars(table["keypoint"].tolist(), table["found"].tolist(), "share found"),
        f"Share found of each keypoint, from {low['keypoint']} {low['found']:.2f} to "
        f"{high['keypoint']} {high['found']:.2f}",
        "Found: similarity to its own truth above 0.5.",
    )
    columns = ("labelled", "found", "AP", "PCK", "oks")
    return Pictures((picture,)), frame("Each keypoint alone", table, "keypoint", columns)


def groups(table: pd.DataFrame) -> tuple[Block, ...]:
    """AP of the persons of a size, with so much occlusion, in such a crowd."""
    names = [f"{row.group}: {row.bin}" for row in table.itertuples()]
    aps = table["AP"].where(table["AP"] >= 0)
    said = ", ".join(f"{name} {ap:.2f}" for name, ap in zip(names, aps, strict=True) if ap >= 0)
    picture = Picture(
        "groups.svg",
        svg_charts.bars(names, aps.tolist(), "AP"),
        f"AP by group: {said}",
        "A group without persons has no bar.",
    )
    rows = table.assign(name=names)
    return Pictures((picture,)), frame("Groups of persons", rows, "name", ("persons", "AP", "oks"))


def scores(pr: pd.DataFrame, oks: pd.DataFrame, calibration: pd.DataFrame) -> tuple[Block, ...]:
    """Precision over recall, share of persons over OKS, and whether scores are honest."""
    drawn = [_precision(pr), _shares(oks)]
    if calibration["count"].sum():
        drawn.append(_calibration(calibration))
    return (Pictures(tuple(drawn)),)


def _precision(pr: pd.DataFrame) -> Picture:
    curves, said = {}, []
    for threshold in THRESHOLDS:
        part = pr[(pr["oks_thr"] - threshold).abs() < 1e-6]
        curves[f"OKS {threshold}"] = part["recall"].to_numpy(), part["precision"].to_numpy()
        said.append(f"{part['precision'].mean():.2f} at OKS {threshold}")
    return Picture(
        "precision_recall.svg",
        svg_charts.lines(curves, "recall", "precision"),
        f"Precision over recall; mean precision {', '.join(said)}",
        "Precision over recall, as COCOeval interpolates it.",
    )


def _shares(oks: pd.DataFrame) -> Picture:
    x, y = oks["oks_thr"].to_numpy(), oks["share"].to_numpy()
    half = float(y[np.abs(x - 0.5).argmin()])
    return Picture(
        "oks.svg",
        svg_charts.lines({"persons": (x, y)}, "OKS", "share of persons at or above"),
        f"Share of persons at or above an OKS; {half:.0%} reach 0.5",
        "Share of persons whose OKS is at least this.",
    )


def _calibration(table: pd.DataFrame) -> Picture:
    filled = table[table["count"] > 0]
    gap = (filled["score"] - filled["oks"]).abs() * filled["count"] / filled["count"].sum()
    return Picture(
        "calibration.svg",
        svg_charts.calibration(filled["score"].to_numpy(), filled["oks"].to_numpy()),
        f"Mean OKS over mean score, {len(filled)} bins; expected gap {gap.sum():.3f}",
        "Do scores promise what OKS keeps? On the dotted line they do.",
    )
