"""Measure data loading: samples, codec, cache, memory, DVC.

    python benchmarks/data.py [--coco FOLDER --split val2017]

Compares our samples with a direct implementation on whole images (reference.py) and with the floor:
decode a stored crop and warp it once. Without --coco it renders people; with --coco it reads a COCO
folder or zips. Measures CPU time of one thread, alternating between the implementations; a ratio is
the median over rounds. Writes benchmarks/data.md or data_coco.md. Takes about five minutes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import psutil
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "stages"))
sys.path.insert(0, str(ROOT / "recipes"))

import pose  # noqa: E402, F401  # before torch, which reads OpenMP's variables

# isort: split
import torch  # noqa: E402

import apply  # noqa: E402
import reference  # noqa: E402
from pose.coco.annotations import Person, read_annotations  # noqa: E402
from pose.coco.files import coco_files  # noqa: E402
from pose.coco.images import Images  # noqa: E402
from pose.codecs import geometry  # noqa: E402
from pose.codecs.gaussian import Blur  # noqa: E402
from pose.codecs.udp import UdpCodec  # noqa: E402
from pose.common.params import Synthetic  # noqa: E402
from pose.common.script import exit_codes  # noqa: E402
from pose.common.skeleton import COCO_17  # noqa: E402
from pose.crop_table import CropTable, schema  # noqa: E402
from pose.crops.shards import CropSettings, psnr_db, write_shard  # noqa: E402
from pose.data import augment  # noqa: E402
from pose.data.samples import TrainingSamples  # noqa: E402
from pose.synthetic.dataset import write_coco_zips  # noqa: E402

SIZES = [((192, 256), 2.0), ((384, 512), 2.0), ((768, 1024), 6.0)]  # (w, h), sigma
PARTS_OF = SIZES[1]
ROUNDS, SAMPLES = 9, 40
OFFICIAL = apply.resolve("sapiens_1b_coco_1024x768")
AUGMENT, DATA = OFFICIAL.augment, OFFICIAL.data
Work = Callable[[int], object]


def main() -> None:
    """Measure everything and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--coco", type=Path, help="folder with annotations/ and the split")
    parser.add_argument("--split", default="val2017")
    chosen = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="data-") as folder:
        root = chosen.coco or rendered(Path(folder))
        lines = report(root, chosen.split, Path(folder))
    source = f"COCO images of {chosen.split}" if chosen.coco else "rendered people"
    arguments = f" --coco FOLDER --split {chosen.split}" if chosen.coco else ""
    title = (
        f"# Speed and memory of data loading, {source}\n\n"
        f"`python benchmarks/data.py{arguments}`: one CPU thread, about five minutes.\n"
    )
    name = "data_coco.md" if chosen.coco else "data.md"
    (ROOT / "benchmarks" / name).write_text("\n".join([title, *lines]) + "\n")


def rendered(folder: Path) -> Path:
    """COCO zips with 60 rendered images as val2017."""
    settings = Synthetic(
        seed=0,
        train_images=1,
        val_images=60,
        unlabelled_fraction=0.25,
        image_size=(480, 360),
        jpeg_quality=92,
    )
    write_coco_zips(folder, settings, 1, lambda _: None)
    return folder


def report(root: Path, split: str, scratch: Path) -> list[str]:
    """All lines of the page after its title."""
    persons = [
        p for p in read_annotations(coco_files(root, split), DATA, None).persons if p.num_keypoints
    ]
    kinds = "reference | ours, for a CPU | ours, for a GPU | floor"
    lines = [
        "Milliseconds of CPU time per training sample, made in four ways:",
        "",
        "- reference: the steps of the official pipeline on whole images (reference.py);",
        "- ours, for a CPU;",
        "- ours, for a GPU: without the colour augmentation and the dropout hole, which run on the",
        "  GPU (augment_device.py);",
        "- floor: decode the stored crop and warp it once.",
        "",
        "In brackets: how many times as fast as the reference, and the share of the floor's speed.",
        "",
        f"| input | {kinds} |",
        "|---" * 5 + "|",
    ]
    for wh, sigma in SIZES:
        lines.append(samples_line(root, split, persons, wh, sigma, scratch))
    lines += ["", *parts_lines(scratch), "", *stored_lines(root, split, persons, scratch)]
    lines += ["", "| codec | one person at a time, ms | batched, ms | ratio |", "|---" * 4 + "|"]
    for wh, sigma in SIZES:
        lines += codec_lines(wh, sigma)
    return [*lines, "", *memory_lines(scratch), "", *dvc_lines(scratch)]


def crop_spec(wh: tuple[int, int], sigma: float) -> CropSettings:
    codec = UdpCodec(
        "gaussian", wh, (wh[0] // 4, wh[1] // 4), sigma, 0.0546875, COCO_17.flip_indices
    )
    return CropSettings(codec, COCO_17, AUGMENT, 95)


def cached(
    folder: Path, root: Path, split: str, persons: list[Person], spec: CropSettings
) -> tuple[CropTable, list[float]]:
    """Crop table of the people, and squared errors of its sampled crops."""
    folder.mkdir(exist_ok=True)
    notes = write_shard(folder / "00000.arrow", Images(coco_files(root, split)), persons, spec)
    return CropTable(folder), notes.squared_errors


def samples_line(
    root: Path, split: str, persons: list[Person], wh: tuple[int, int], sigma: float, scratch: Path
) -> str:
    """One row: CPU milliseconds per sample, and ratios."""
    spec = crop_spec(wh, sigma)
    table, _ = cached(scratch / f"crops{wh[0]}", root, split, persons, spec)
    near, far = (
        TrainingSamples(table, table.labelled(), AUGMENT, COCO_17, spec.codec, 0, (0,), deferred)
        for deferred in (False, True)
    )
    images = Images(coco_files(root, split))
    jpegs = [np.frombuffer(images.read(p.file_name), np.uint8) for p in persons]
    affines = [floor_affine(near, row) for row in range(len(persons))]
    count = len(persons)
    work: list[Work] = [
        lambda i: reference.sample(jpegs[i % count], persons[i % count], wh, sigma),
        lambda i: near[(0, i % count)],
        lambda i: far[(0, i % count)],
        lambda i: geometry.warp(table.crop(i % count), affines[i % count], wh),
    ]
    theirs, *ours, floor = measured(work)
    cells = [
        f"{1000 * median(mine):.2f} ({ratio(theirs, mine):.1f} times, {ratio(floor, mine):.0%})"
        for mine in ours
    ]
    ends = [f"{1000 * median(one):.2f}" for one in (theirs, floor)]
    return f"| {wh[0]} x {wh[1]} | {ends[0]} | {' | '.join(cells)} | {ends[1]} |"


def floor_affine(samples: TrainingSamples, row: int) -> np.ndarray:
    affine, _ = samples._affine_and_target(np.random.default_rng(row), row)
    return geometry.compose(affine, geometry.translate(samples.table.crop_xy[row]))


def measured(work: list[Work], count: int = SAMPLES, rounds: int = ROUNDS) -> list[list[float]]:
    """CPU seconds per call of each kind in each round, after one unmeasured round."""
    times: list[list[float]] = [[] for _ in work]
    for round_ in range(rounds + 1):
        for kind, one in enumerate(work):
            start = time.thread_time()
            for i in range(count):
                one(round_ * count + i)
            times[kind].append((time.thread_time() - start) / count)
    return [kind[1:] for kind in times]


def parts_lines(scratch: Path) -> list[str]:
    """CPU milliseconds of each part of a sample for a CPU, at PARTS_OF, of people cached before."""
    wh, sigma = PARTS_OF
    codec = crop_spec(wh, sigma).codec
    table = CropTable(scratch / f"crops{wh[0]}")
    samples = TrainingSamples(table, table.labelled(), AUGMENT, COCO_17, codec, 0, (0,))
    times: dict[str, float] = {}

    def timed(part: str, work: Callable[..., Any], *arguments: object) -> Any:
        start = time.thread_time()
        result = work(*arguments)
        times[part] = times.get(part, 0.0) + time.thread_time() - start
        return result

    count = ROUNDS * SAMPLES
    for i in range(count):
        row, rng = int(samples.rows[i % len(samples)]), np.random.default_rng(i)
        affine, _ = timed("draw the box, move the keypoints", samples._affine_and_target, rng, row)
        crop = timed("decode the stored crop", table.crop, row)
        from_crop = geometry.compose(affine, geometry.translate(table.crop_xy[row]))
        image = timed("warp", codec.warp, crop, from_crop)
        jitter = timed("draw colours", augment.draw_colour_jitter, rng, AUGMENT)
        blurs, hole = timed("draw blurs and hole", samples.blur_dropout.draw, rng, wh)
        image = timed("change colours", augment.apply_colour_jitter, image, jitter)
        image = timed("blur (one sample in five)", augment.apply_blurs, image, blurs)
        timed("make the hole black", augment.fill_hole_, image, hole)
    rows = [f"| {part} | {1000 * seconds / count:.2f} |" for part, seconds in times.items()]
    return [
        f"Parts of a sample for a CPU, {wh[0]} x {wh[1]}:",
        "",
        "| part | ms |",
        "|---|---|",
        *rows,
    ]


def ratio(above: list[float], below: list[float]) -> float:
    return median(a / b for a, b in zip(above, below, strict=True))


def stored_lines(root: Path, split: str, persons: list[Person], scratch: Path) -> list[str]:
    """Size, quality and speed of storing crops."""
    spec = crop_spec((384, 512), 2.0)
    start = time.thread_time()
    table, errors = cached(scratch / "stored", root, split, persons, spec)
    speed = len(persons) / (time.thread_time() - start)
    size = np.mean([len(table._jpeg[row].as_buffer()) for row in range(len(table))])
    return [
        f"A stored crop takes {size / 1000:.0f} kB and its target 204 bytes (JPEG quality "
        f"{spec.jpeg_quality}, as large as the official",
        f"augmentation needs). The PSNR of the network's input is {psnr_db(errors):.1f} dB. One "
        f"thread caches {speed:.0f} people per",
        "second.",
    ]


def codec_lines(wh: tuple[int, int], sigma: float) -> list[str]:
    """Encode and decode a batch of 16 people, compared with one person at a time."""
    codec = crop_spec(wh, sigma).codec
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1, (16, 17, 2)) * (np.array(wh) - 1)
    targets = torch.from_numpy(np.stack([codec.encode(p, np.ones(17)) for p in points]))
    maps = codec.render(targets) + 0.02 * torch.randn(16, 17, wh[1] // 4, wh[0] // 4)
    planes = list(maps.numpy())
    pairs: list[list[Work]] = [
        [
            lambda _: np.stack([reference.encode(p, np.ones(17), wh, sigma)[0] for p in points]),
            lambda _: codec.render(targets),
        ],
        [
            lambda _: [reference.decode(plane) for plane in planes],
            lambda _: codec.decode(maps, Blur(11), True),
        ],
    ]
    lines = []
    for name, work in zip(("encode", "decode"), pairs, strict=True):
        slow, fast = measured(work, 2)
        times = f"{1000 * median(slow):.1f} | {1000 * median(fast):.1f}"
        lines.append(f"| {name} 16 people, {wh[0]} x {wh[1]} | {times} | {ratio(slow, fast):.1f} |")
    return lines


def memory_lines(scratch: Path) -> list[str]:
    """Peak memory of a process that reads samples of small and large tables."""
    peaks = {}
    for count in (1_000, 100_000):
        folder = scratch / f"rows{count}"
        folder.mkdir()
        grown_table(scratch / "stored", folder, count)
        command = [sys.executable, __file__, "--probe", str(folder)]
        peaks[count] = int(subprocess.check_output(command, text=True))
    small, large = peaks.values()
    return [
        "Memory of a process that reads 300 samples, without the memory-mapped pages of shards:",
        f"{small / 1e6:.0f} MB for a table of 1,000 people, {large / 1e6:.0f} MB for 100,000 "
        f"({large / small:.2f} times).",
    ]


def grown_table(stored: Path, folder: Path, count: int) -> None:
    """Write a table of `count` people, 500 per shard, that repeats one row with a small crop."""
    row = pa.ipc.open_file(str(stored / "00000.arrow")).read_all().slice(0, 1).to_pylist()[0]
    image = np.full((64, 48, 3), 127, np.uint8)
    row["crop_jpeg"] = cv2.imencode(".jpg", image)[1].tobytes()
    table = pa.Table.from_pylist([row] * 500, schema=schema(17))
    for shard in range(count // 500):
        with pa.ipc.new_file(str(folder / f"{shard:05d}.arrow"), schema(17)) as writer:
            writer.write_table(table)


def probe(folder: Path) -> None:
    """Print the anonymous memory of a process that read samples of the table."""
    table = CropTable(folder)
    codec = crop_spec((192, 256), 2.0).codec
    samples = TrainingSamples(table, table.labelled(), AUGMENT, COCO_17, codec, 0, (0,))
    for i in range(300):
        samples[(0, i * len(samples) // 300)]
    memory = psutil.Process().memory_info()
    print(memory.rss - memory.shared)


def dvc_lines(scratch: Path) -> list[str]:
    """Seconds of a first `dvc repro` with 20 shards of 5 MB as the out, and of one without work."""
    folder = scratch / "dvc"
    folder.mkdir()
    make = "import os, pathlib; p = pathlib.Path('cache'); p.mkdir(); "
    make += "[(p / f'{i:05d}.arrow').write_bytes(os.urandom(5_000_000)) for i in range(20)]"
    (folder / "make.py").write_text(make)
    yaml = "stages: {make: {cmd: python make.py, deps: [make.py], outs: [cache]}}"
    (folder / "dvc.yaml").write_text(yaml)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    seconds = []
    for command in (["init", "--no-scm", "-q"], ["repro", "-q"], ["repro", "-q"]):
        start = time.monotonic()
        command = [sys.executable, "-m", "dvc", *command]
        subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, check=True)
        seconds.append(time.monotonic() - start)
    _, first, again = seconds
    return [
        f"`dvc repro` with 20 shards of 5 MB as the out takes {first:.1f} s the first time, "
        f"{again:.1f} s when nothing",
        "changed (most of it is DVC's own start).",
    ]


if __name__ == "__main__":
    with exit_codes("benchmark"):
        if sys.argv[1:2] == ["--probe"]:
            probe(Path(sys.argv[2]))
        else:
            main()
