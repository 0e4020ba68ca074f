"""The share of the input that boxes fill, and the input size that fits them."""

from __future__ import annotations

from pathlib import Path

import pytest

import build_cache
from pose.crop_table import CropTable
from pose.crops.aspect import advice, best_size, fill, median_ratio
from sections import DEFAULT, changed


@pytest.mark.parametrize(
    ("ratio", "input_wh", "share"),
    [(0.75, (72, 96), 1), (0.375, (72, 96), 0.5), (3, (96, 72), 4 / 9), (1, (64, 64), 1)],
)
def test_fill(ratio: float, input_wh: tuple[int, int], share: float) -> None:
    assert fill(ratio, input_wh) == pytest.approx(share)


@pytest.mark.parametrize("ratio", [0.1, 0.45, 1, 1.62, 9])
@pytest.mark.parametrize(("input_wh", "patch"), [((72, 96), 8), ((768, 1024), 16), ((16, 16), 16)])
def test_the_best_size_costs_no_more_and_fits(
    ratio: float, input_wh: tuple[int, int], patch: int
) -> None:
    w, h = best_size(ratio, input_wh, patch)
    assert w % patch == h % patch == 0 < w * h <= input_wh[0] * input_wh[1]
    assert w * h * fill(ratio, (w, h)) >= input_wh[0] * input_wh[1] * fill(ratio, input_wh)


def test_the_settings_of_the_advice_are_valid() -> None:
    codec = changed(DEFAULT.codec, input_size=(72, 96), heatmap_size=(36, 48))
    line = advice(1.62, codec, DEFAULT.model)
    assert "(w/h 1.62) fills 46% of 72 x 96 (w x h); codec.input_size: [104, 64] with " in line
    assert "codec.heatmap_size: [52, 32] costs the same or less and is filled by 100%" in line
    assert advice(0.7, codec, DEFAULT.model).endswith("fills 93% of 72 x 96 (w x h)")


def test_boxes_of_a_table(crop_table: CropTable, tmp_path: Path) -> None:
    widths, heights = crop_table.bbox_xywh[range(len(crop_table))][:, 2:].T
    middle = sorted(widths / heights)[len(widths) // 2 - 1 : len(widths) // 2 + 1]
    assert middle[0] <= median_ratio(crop_table) <= middle[1]
    assert not median_ratio(CropTable(tmp_path / "none")) < 1


@pytest.mark.parametrize(
    ("source", "input_size", "logged"),
    [
        ("local", (72, 96), 0),
        ("local", (960, 96), 1),
        ("local", (96, 960), 1),
        ("synthetic", (96, 960), 0),
    ],
)
def test_build_cache_logs_a_bad_fit_of_own_data(
    crop_table: CropTable,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    input_size: tuple[int, int],
    logged: int,
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(build_cache, "log", lines.append)
    monkeypatch.setattr(build_cache, "median_ratio", lambda table: 0.75)
    sections = {
        "codec": changed(DEFAULT.codec, input_size=input_size),
        "data": changed(DEFAULT.data, source=source),
    }
    build_cache._log_fill(DEFAULT.model_copy(update=sections), crop_table)
    assert len(lines) == logged
    assert all("`python stages/plan.py` prints a better size" in line for line in lines)
