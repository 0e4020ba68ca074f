"""The report of a small project: self-contained, reproducible, and checked in a browser."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import report
from pose.common.errors import PoseError
from pose.common.files import digest
from pose.common.params import load_params
from pose.report.page import markdown
from report_project import HOSTILE, NAMES, ROOT, build, empty_tables, set_params

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def make(folder: Path) -> dict[str, bytes]:
    """Run the stage in a folder; returns the files it wrote."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        report.main(load_params(Path("params.yaml")))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in written(folder)}


def written(folder: Path) -> list[Path]:
    """The files of the stage in a folder."""
    places = [folder / "report", folder / "metrics/report"]
    return [path for place in places for path in sorted(place.rglob("*")) if path.is_file()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("report")
    build(folder)
    return folder, make(folder)


@pytest.fixture
def project(made: tuple[Path, dict[str, bytes]], tmp_path: Path) -> Path:
    """A copy to change."""
    return shutil.copytree(made[0], tmp_path / "project")


def text_of(files: dict[str, bytes], name: str) -> str:
    return files[name].decode()


def test_a_second_run_writes_the_same_bytes(made: tuple[Path, dict[str, bytes]]) -> None:
    assert make(made[0]) == made[1]


def test_the_page_makes_no_requests(made: tuple[Path, dict[str, bytes]]) -> None:
    page = text_of(made[1], "report/index.html")
    addresses = re.findall(r"(?:src|href|action)=\"([^\"]*)\"", page)
    assert len(addresses) > 20
    assert {re.split(r"[:,]", address)[0] for address in addresses if address[0] != "#"} == {"data"}
    assert not re.search(r"@import|url\(", page)


def test_markdown_shows_the_pictures_beside_it(made: tuple[Path, dict[str, bytes]]) -> None:
    text = text_of(made[1], "metrics/report/report.md")
    linked = re.findall(r"^!\[.+\]\((\S+)\)$", text, re.M)
    assert {f"metrics/report/{name}" for name in linked} == {
        name for name in made[1] if "/pictures/" in name
    }
    page = text_of(made[1], "report/index.html")
    for chart in ("Training loss", "Precision over recall;"):
        assert re.search(f"^{chart}.*chart in report/index.html", text, re.M)
        assert f'alt="{chart}' in page


def test_page_and_markdown_have_the_same_content(made: tuple[Path, dict[str, bytes]]) -> None:
    page, text = (
        text_of(made[1], name) for name in ("report/index.html", "metrics/report/report.md")
    )
    assert re.findall("<h2[^>]*>(.*)</h2>", page) == re.findall("^## (.*)$", text, re.M)
    assert len(re.findall("<tr", page)) == len(re.findall(r"^\| [^-].*\|$", text, re.M))
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line[:1] == "|"]
    starts = [i for i, line in enumerate(text.splitlines()) if line.startswith("| --- |")]
    assert len(starts) == page.count("<table>")
    assert min(widths) >= 3


@pytest.mark.parametrize("name", [HOSTILE, NAMES[3]])
def test_names_are_shown_literally(made: tuple[Path, dict[str, bytes]], name: str) -> None:
    page, text = (
        text_of(made[1], name) for name in ("report/index.html", "metrics/report/report.md")
    )
    assert name in html.unescape(page)
    assert markdown(name) in text
    for hidden in ("<script", "<b>", "<img src=x"):
        assert hidden not in page
        assert hidden not in text


def test_changes_are_from_the_baseline_and_without_heatmaps_no_model_is_read(project: Path) -> None:
    baseline = {"AP": 0.5, "AP50": 0.75, "AR": -1}
    (project / "metrics/baseline/metrics.json").write_text(json.dumps(baseline))
    before = {path.relative_to(project).as_posix() for path in written(project)}
    set_params(project / "params.yaml", {"report.heatmaps": 0})
    (project / "models/ssl.safetensors").unlink()
    files = make(project)
    assert set(files) == before
    assert "heatmaps.jpg" not in text_of(files, "metrics/report/report.md")
    text = text_of(files, "metrics/report/report.md")
    for row in (
        "| AP | 0.550 | 0.500 | +0.050 |",
        "| AP50 | 0.750 | 0.750 | 0.000 |",
        "| AP75 | 0.500 | \N{EN DASH} | \N{EN DASH} |",
        "| AR | 0.600 | \N{EN DASH} | \N{EN DASH} |",
        "| model.depth | 4 | 1 |",
        "| data/cache | 5d41.dir | 1,234 |",
    ):
        assert row in text.splitlines()


def test_there_is_a_page_without_annotations(
    made: tuple[Path, dict[str, bytes]], project: Path
) -> None:
    empty_tables(project)
    files = make(project)
    page = text_of(files, "report/index.html")
    assert "Pose report: AP \N{EN DASH}" in page
    assert "Val has no annotations, so there are no scores." in page
    assert "Training" in page
    worst = "metrics/report/pictures/worst.jpg"
    assert files[worst] != made[1][worst]  # of an earlier run


def test_the_page_says_whose_result_it_is(project: Path) -> None:
    text = text_of(make(project), "metrics/report/report.md").splitlines()
    assert text[0] == "# Pose report: AP 0.550 on rendered people"
    assert text[2].startswith("Val: 5 images, 5 people with keypoints. Params: those of ")
    assert re.search(r" except \S+ = .+ \(.+\), .+, \d+ more, listed below\. COCOeval", text[2])
    set_params(project / "params.yaml", {"data.source": "local", "data.root": "/x/mice 2"})
    text = text_of(make(project), "metrics/report/report.md").splitlines()
    assert text[0] == "# Pose report: AP 0.550 on mice 2"
    set_params(project / "params.yaml", {"data.source": "coco", "data.val_split": "val2017"})
    text = text_of(make(project), "metrics/report/report.md").splitlines()
    assert text[0] == "# Pose report: AP 0.550 on COCO val2017"


def test_warnings_come_first(project: Path) -> None:
    lines = ["12 of 34 have area 0", "<b>|mirrored"]
    (project / "data/cache/warnings.json").write_text(json.dumps(lines))
    files = make(project)
    page, text = (
        text_of(files, name) for name in ("report/index.html", "metrics/report/report.md")
    )
    assert re.findall("<h2[^>]*>(.*)</h2>", page)[0] == "Warnings"
    assert text.index("## Warnings") < text.index(lines[0]) < text.index("## Result")
    assert "<b>" not in page
    (project / "data/cache/warnings.json").unlink()
    assert "Warnings" not in text_of(make(project), "report/index.html")


def test_an_own_set_is_not_compared_with_the_embedded_one(project: Path) -> None:
    set_params(project / "params.yaml", {"data.source": "local", "data.category": "mouse"})
    truth = project / "data/cache/ground_truth.json"
    truth.write_text('{"images": []}')
    text = text_of(make(project), "metrics/report/report.md")
    assert "| AP | 0.550 |" in text.splitlines()
    baseline = json.loads((ROOT / "metrics/baseline/metrics.json").read_text(encoding="utf-8"))
    assert f"{baseline['AP']:.3f}" not in text
    assert (
        "Not compared with metrics/baseline, which was measured on other data (data.source" in text
    )

    folder = project / "metrics/baseline"  # what `make baseline` writes
    shutil.copy(project / "params.yaml", folder)
    shutil.copy(project / "metrics/evaluate/metrics.json", folder)
    (folder / "ground_truth.sha256").write_text(digest(truth) + "\n")
    text = text_of(make(project), "metrics/report/report.md")
    assert "| AP | 0.550 | 0.550 | 0.000 |" in text.splitlines()


def test_sigmas_and_flip_pairs_are_stated(project: Path) -> None:
    text = text_of(make(project), "metrics/report/report.md")
    assert "OKS sigmas: 0.067 for each of 5 keypoints (the default for" in text
    assert "1 flip pair: left_ear - right_ear; 3 unpaired: nose, tail" in text
    set_params(project / "params.yaml", {"keypoints.oks_sigmas": [0.1, 0.025, 0.025, 0.2, 0.1]})
    text = text_of(make(project), "metrics/report/report.md")
    assert "0.025 to 0.2 of 5 keypoints (keypoints.oks_sigmas of params.yaml)" in text


def test_of_hundreds_of_keypoints_the_lowest_are_shown(tmp_path: Path) -> None:
    names = (*NAMES, *(f"landmark_{k}" for k in range(289)))
    build(tmp_path, names)
    files = make(tmp_path)
    text = text_of(files, "metrics/report/report.md")
    note = "the 40 lowest of 294, all are in metrics/evaluate/keypoints.csv"
    assert text.count(note) == 2
    assert text.count("the 40 lowest of 294, all are in metrics/build_cache/keypoints.csv") == 1
    assert len(re.findall(r"^\| landmark_288 ", text, re.M)) == 1  # the least found
    assert len(text) < 40_000
    charts = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", text_of(files, "report/index.html"))
    labels = [base64.b64decode(chart).count(b">landmark_") for chart in charts]
    assert max(labels) == 40
    assert len(max(text.splitlines(), key=len)) < 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "not a readable table"),
        (b"kind,share\ngood,1\n", "no column 'ap_gain'"),
        (b"\xff\xfe,\n", "not a readable table"),
    ],
)
def test_a_missing_or_broken_table_is_named(
    project: Path, content: bytes | None, message: str
) -> None:
    path = project / "metrics/evaluate/errors.csv"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PoseError, match=f"metrics/evaluate/errors.csv: {message}"):
        make(project)


def test_the_stage_declares_every_section() -> None:
    """All but review, which compares two runs; a section that is not declared is not compared."""
    yaml = YAML(typ="safe", pure=True)
    declared = yaml.load(ROOT / "dvc.yaml")["stages"]["report"]["params"]
    assert set(declared) == set(yaml.load(ROOT / "params.yaml")) - {"review"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM:
        pytest.skip("no chromium on PATH")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield running
        running.close()


@pytest.fixture(scope="module")
def opened(browser: Any, made: tuple[Path, dict[str, bytes]]) -> Iterator[tuple[Any, list[str]]]:
    """The page on a phone in dark mode, and the browser's error messages."""
    view = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    messages: list[str] = []
    view.on("console", lambda message: messages.append(message.text))
    view.on("pageerror", lambda error: messages.append(str(error)))
    view.on("requestfailed", lambda request: messages.append(request.url[:80]))
    view.goto((made[0] / "report/index.html").as_uri())
    yield view, messages
    view.close()


def test_the_browser_reports_no_errors(opened: tuple[Any, list[str]]) -> None:
    view, messages = opened
    assert messages == []
    assert view.title().startswith("Pose report: AP 0.550")


def test_every_picture_is_drawn_and_described(opened: tuple[Any, list[str]]) -> None:
    found = opened[0].eval_on_selector_all("img", "all => all.map(i => [i.naturalWidth, i.alt])")
    assert len(found) >= 12
    assert all(width > 0 and len(alt) > 20 for width, alt in found)


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_does_not_scroll_sideways(opened: tuple[Any, list[str]], width: int) -> None:
    view = opened[0]
    view.set_viewport_size({"width": width, "height": 800})
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.evaluate("document.body.scrollWidth") <= width


def test_dark_and_light_mode_have_their_own_colours(opened: tuple[Any, list[str]]) -> None:
    view = opened[0]
    shades = {}
    for scheme in ("dark", "light"):
        view.emulate_media(color_scheme=scheme)
        shades[scheme] = [
            view.evaluate(f"getComputedStyle(document.body).{key}.match(/\\d+/g).map(Number)")
            for key in ("backgroundColor", "color")
        ]
    assert max(shades["dark"][0]) < 60 < 180 < min(shades["dark"][1])
    assert max(shades["light"][1]) < 80 < 200 < min(shades["light"][0])


def test_charts_have_a_dark_mode(opened: tuple[Any, list[str]]) -> None:
    view = opened[0]
    chart = view.locator("img[src^='data:image/svg']").first
    means = {}
    for scheme in ("dark", "light"):
        view.emulate_media(color_scheme=scheme)
        means[scheme] = _mean(chart.screenshot())
    assert means["dark"] < 90 < 200 < means["light"]


def _mean(png: bytes) -> float:
    import cv2
    import numpy as np

    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    return float(picture.mean())


def test_a_screen_reader_can_navigate(opened: tuple[Any, list[str]]) -> None:
    view = opened[0]
    assert view.evaluate("document.documentElement.lang") == "en"
    levels = view.eval_on_selector_all("h1,h2,h3,h4", "all => all.map(h => Number(h.tagName[1]))")
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert view.locator("th:not([scope])").count() == 0
    assert view.locator("table").count() == view.locator("table > caption").count() > 8
    assert view.locator("main").count() == view.locator("nav").count() == 1
    ids = view.eval_on_selector_all("[id]", "all => all.map(e => e.id)")
    targets = view.eval_on_selector_all("a", "all => all.map(a => a.getAttribute('href'))")
    assert len(ids) == len(set(ids))
    assert {target.lstrip("#") for target in targets} <= set(ids)
