"""The report's charts, each with a description, a caption and the table behind it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pose.report import svg_charts
from pose.report.page import Block, Picture, Pictures, Text
from pose.report.tables import lowest, metric_table, read_table

Array = NDArray[np.float64]
PHASES = {"train_phase1": "phase 1", "train_phase2": "phase 2", "train_ssl": "SSL"}

# Of a training stage: column, the file in metrics/<stage> that has it, title, scale of the y axis.
CURVES = (
    ("loss", "curves.csv", "Training loss, heatmap MSE", "log"),
    ("lr", "curves.csv", "Learning rate", "linear"),
    ("grad_norm", "curves.csv", "Gradient norm before clipping, L2", "log"),
    ("val_AP", "val_AP.csv", "AP on val while training", "linear"),
)
OKS_THRESHOLDS = (0.5, 0.75, 0.9)  # of the precision-recall curves


def training(metrics: Path) -> tuple[Block, ...]:
    """Curves of the three phases, one after the other; a phase of 0 epochs has no curve."""
    pictures = []
    for name, file, title, scale in CURVES:
        tables = {
            label: read_table(metrics / stage / file, "step").reindex(columns=["step", name])
            for stage, label in PHASES.items()
        }
        tables = {label: rows for label, table in tables.items() if len(rows := table.dropna())}
        if tables:
            pictures.append(_training_curve(name, title, scale, tables))
    if not pictures:
        return (Text(("There are no training curves: every phase has 0 epochs.",)),)
    return (Pictures(tuple(pictures)),)


def _training_curve(name: str, title: str, scale: str, tables: dict[str, pd.DataFrame]) -> Picture:
    values = {label: table.iloc[:, 1].tolist() for label, table in tables.items()}
    ends = ", ".join(f"{label} from {y[0]:.3g} to {y[-1]:.3g}" for label, y in values.items())
    chart = svg_charts.lines(svg_charts.concatenate_phases(tables), "step", title, scale)
    return Picture(f"train_{name}.svg", chart, f"{title} over steps: {ends}", f"{title}.")


def errors(table: pd.DataFrame) -> tuple[Block, ...]:
    """Share of keypoints by kind of error; the kinds are those of Ronchi & Perona 2017."""
    shares = ", ".join(f"{row.kind} {row.share:.1%}" for row in table.itertuples())
    chart = svg_charts.bars(table["kind"].tolist(), table["share"].tolist(), "share of keypoints")
    picture = Picture(
        "errors.svg",
        chart,
        f"Share of keypoints by kind of error: {shares}",
        "Jitter: close to the right keypoint; inversion: at another keypoint of the same person; "
        "swap: at a keypoint of another person; miss: close to no keypoint (Ronchi & Perona 2017).",
    )
    gains = metric_table(
        "AP gain if all errors of this kind were corrected", table, "kind", ("share", "ap_gain")
    )
    return Pictures((picture,)), gains


def keypoints(table: pd.DataFrame) -> tuple[Block, ...]:
    """Share of each keypoint that was found, and its other metrics."""
    order = table.sort_values("found", kind="stable").to_dict("records")
    low, high = order[0], order[-1]
    shown, note = lowest(table, "found", "metrics/evaluate/keypoints.csv")
    picture = Picture(
        "keypoints.svg",
        svg_charts.bars(shown["keypoint"].tolist(), shown["found"].tolist(), "share found"),
        f"Share found per keypoint, from {low['keypoint']} {low['found']:.2f} to "
        f"{high['keypoint']} {high['found']:.2f}",
        f"Found: keypoint similarity to the ground truth above 0.5{note}.",
    )
    columns = ("labelled", "found", "AP", "PCK", "oks")
    metrics = metric_table(f"Metrics per keypoint{note}", shown, "keypoint", columns)
    return Pictures((picture,)), metrics


def groups(table: pd.DataFrame) -> tuple[Block, ...]:
    """AP by size, by occlusion and by crowding of the people."""
    names = [f"{row.group}: {row.bin}" for row in table.itertuples()]
    aps = table["AP"].where(table["AP"] >= 0)
    shown = ", ".join(f"{name} {ap:.2f}" for name, ap in zip(names, aps, strict=True) if ap >= 0)
    picture = Picture(
        "groups.svg",
        svg_charts.bars(names, aps.tolist(), "AP"),
        f"AP by group: {shown}",
        "A group without people has no bar.",
    )
    rows = table.assign(group=names)
    columns = ("persons", "AP", "oks")
    return Pictures((picture,)), metric_table("Metrics per group of people", rows, "group", columns)


def curves(
    pr: pd.DataFrame, oks: pd.DataFrame, calibration: pd.DataFrame, keypoints: pd.DataFrame
) -> tuple[Block, ...]:
    """Precision over recall, people over OKS, reliability of the scores of poses and keypoints."""
    pictures = [_precision_recall(pr), _oks_distribution(oks)]
    if calibration["count"].sum():
        pictures.append(_reliability(calibration))
    if keypoints["count"].sum():
        pictures.append(_keypoint_reliability(keypoints))
    return (Pictures(tuple(pictures)),)


def _precision_recall(pr: pd.DataFrame) -> Picture:
    curves, means = {}, []
    for threshold in OKS_THRESHOLDS:
        part = pr[(pr["oks_thr"] - threshold).abs() < 1e-6]
        curves[f"OKS {threshold}"] = part["recall"].to_numpy(), part["precision"].to_numpy()
        means.append(f"{part['precision'].mean():.2f} at OKS {threshold}")
    return Picture(
        "precision_recall.svg",
        svg_charts.lines(curves, "recall", "precision"),
        f"Precision over recall; mean precision {', '.join(means)}",
        "Precision over recall, as COCOeval interpolates it.",
    )


def _oks_distribution(oks: pd.DataFrame) -> Picture:
    x, y = oks["oks_thr"].to_numpy(), oks["share"].to_numpy()
    half = float(y[np.abs(x - 0.5).argmin()])
    return Picture(
        "oks.svg",
        svg_charts.lines({"persons": (x, y)}, "OKS", "share of persons at or above"),
        f"Share of people at or above an OKS; {half:.0%} reach 0.5",
        "Share of people whose OKS is at least this.",
    )


def _reliability(table: pd.DataFrame) -> Picture:
    filled = table[table["count"] > 0]
    gap = (filled["score"] - filled["oks"]).abs() * filled["count"] / filled["count"].sum()
    return Picture(
        "calibration.svg",
        svg_charts.reliability({"measured": _columns(filled, "score", "oks")}, "mean OKS"),
        f"Mean OKS against mean score, {len(filled)} bins; expected calibration error "
        f"{gap.sum():.3f}",
        "Reliability diagram: mean OKS against mean score per bin. Calibrated scores lie on the "
        "dotted line.",
    )


def _keypoint_reliability(table: pd.DataFrame) -> Picture:
    curves, errors = {}, []
    for kind, rows in table.groupby("scores", sort=False):
        curves[str(kind)] = _columns(rows, "score", "right")
        gap = (rows["score"] - rows["right"]).abs() * rows["count"] / rows["count"].sum()
        errors.append(f"{kind} {gap.sum():.3f}")
    return Picture(
        "keypoint_reliability.svg",
        svg_charts.reliability(curves, "share of keypoints that are right"),
        f"Share of right keypoints against mean keypoint score; expected calibration error: "
        f"{', '.join(errors)}",
        "Reliability diagram of keypoint scores: right means a similarity above 0.5. Calibrated "
        "scores are of maps fitted on the other images.",
    )


def _columns(table: pd.DataFrame, x: str, y: str) -> tuple[Array, Array]:
    return table[x].to_numpy(), table[y].to_numpy()
