"""Charts are reproducible SVG files with real text and colours for dark mode."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from pose.report import svg_charts

STEPS = np.arange(1.0, 6.0)
CURVES = {"phase 1": (STEPS, 1 / STEPS), "a <b> $x$": (STEPS[:1], STEPS[:1])}


def texts(svg: bytes) -> list[str]:
    return [node.text or "" for node in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_the_same_chart_is_the_same_bytes() -> None:
    first, second = (svg_charts.lines(CURVES, "step", "loss", "log") for _ in range(2))
    assert first == second


def test_names_are_stored_as_text() -> None:
    assert {"phase 1", "a <b> $x$", "step", "loss"} <= set(
        texts(svg_charts.lines(CURVES, "step", "loss"))
    )


def test_logarithmic_ticks_are_plain_numbers() -> None:
    ticks = texts(svg_charts.lines({"loss": (STEPS, 0.003 / STEPS)}, "step", "loss", "log"))
    assert "0.001" in ticks
    assert not [tick for tick in ticks if "$" in tick]


def test_every_colour_has_a_dark_one() -> None:
    curves = {str(i): (STEPS, STEPS * i) for i in range(1, 6)}
    text = svg_charts.lines(curves, "x", "y").decode()
    body = text[text.index("</style>") :]
    used = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", body))
    assert used == set(svg_charts.DARK)
    for light, dark in svg_charts.DARK.items():
        assert f'[style*="fill: {light}"]{{fill:{dark} !important}}' in text


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two #rrggbb colours (WCAG 2)."""
    levels = []
    for colour in (first, second):
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        levels.append(float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)
    return max(levels) / min(levels)


@pytest.mark.parametrize(
    ("colour", "ratio"), [(svg_charts.FOREGROUND, 7), *((c, 3) for c in svg_charts.SERIES)]
)
def test_colours_have_contrast(colour: str, ratio: float) -> None:
    assert contrast(colour, svg_charts.BACKGROUND) >= ratio
    assert contrast(svg_charts.DARK[colour], svg_charts.DARK[svg_charts.BACKGROUND]) >= ratio


def test_bars_are_as_long_as_their_values() -> None:
    svg = svg_charts.bars(["a", "b", "c"], [0.5, float("nan"), 1.0], "share")
    shown = texts(svg)
    assert {"a", "b", "c", "0.50", "1.00"} <= set(shown)
    assert "nan" not in " ".join(shown)
    edges = re.findall(rb'd="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*" clip-path[^>]*#2f6fdf', svg)
    lengths = [float(right) - float(left) for left, right in edges]
    assert lengths[1] == 0
    assert lengths[2] == pytest.approx(2 * lengths[0], rel=1e-6)


def test_phases_are_concatenated() -> None:
    tables = {
        "a": pd.DataFrame({"step": [2, 4], "v": [1.0, 2.0]}),
        "b": pd.DataFrame({"step": [], "v": []}),
        "c": pd.DataFrame({"step": [3], "v": [5.0]}),
    }
    curves = svg_charts.concatenate_phases(tables)
    assert [x.tolist() for x, _ in curves.values()] == [[2, 4], [], [7]]
