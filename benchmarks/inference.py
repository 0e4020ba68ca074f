"""AP and speed of a trained model in each form: torch, ONNX Runtime, OpenVINO; float32, 16, int8.

    python benchmarks/inference.py [--model ssl] [--device cuda] [--rounds 5] [--seconds 0.5]

Each form takes crops (B, h, w, 3) uint8 RGB and returns keypoints and scores, so decoding is
included. AP is COCOeval's on the val split in annotated boxes. Speed is measured in rounds, every
form in each; ratios are those of one round. On a CPU: one thread, and seconds are CPU time, which
other processes do not change. On a GPU: wall-clock time, with copies. ONNX Runtime is left out on a
GPU if it was installed without CUDA. Needs data/cache and models/. Rewrites the device's section of
benchmarks/inference.md. Takes about 3 minutes of CPU time with the embedded default.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

import pose  # noqa: F401, I001  # before torch, which reads OpenMP's variables
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from pose.codecs import geometry
from pose.common import stage
from pose.common.files import read_json, write_atomic
from pose.crop_table import CropTable
from pose.data.samples import TestSamples
from pose.deploy.half import HalfNetwork
from pose.deploy.int8 import CALIBRATION, OPERATORS, write_int8
from pose.deploy.keypoints_graph import CROPS, KeypointsGraph, write_keypoints_onnx
from pose.deploy.manifest import Manifest, build_manifest, project_params, project_weights
from pose.deploy.precision import cached_crops
from pose.deploy.predictor import torch_network
from pose.evaluation.coco_metrics import coco_eval, to_results
from pose.evaluation.predict import Predictions
from results import device_name, with_section
from timing import clock

PAGE = Path(__file__).with_suffix(".md")
BATCHES = (1, 32)
INT8 = {"blocks": OPERATORS, "all": (*OPERATORS, "Conv")}  # operators in int8
CUDA = "CUDAExecutionProvider"
HEAD = """# Inference

AP on the val split, and crops per second from crop to keypoints, of each form of a model.
benchmarks/inference.py writes one section per device.
"""

Crops = NDArray[np.uint8]
Form = Callable[[Crops], tuple[NDArray[np.float32], NDArray[np.float32]]]


@dataclass(frozen=True)
class Row:
    """AP of a form, and its crops per second by batch size, one per round."""

    name: str
    ap: float
    rates: dict[int, list[float]]


def torch_form(graph: KeypointsGraph, device: torch.device) -> Form:
    graph = graph.to(device).eval()

    @torch.no_grad()
    def run(crops: Crops) -> tuple[Any, ...]:
        found = graph(torch.from_numpy(crops).to(device))
        return tuple(tensor.cpu().numpy() for tensor in found)

    return run


def onnx_form(path: Path, device: torch.device) -> Form:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    providers = [CUDA] if device.type == "cuda" else ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    return lambda crops: session.run(None, {CROPS: crops})


def openvino_form(path: Path) -> Form:
    import openvino

    config = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(path, "CPU", config)
    return lambda crops: tuple(model([crops]).values())


def val_samples(manifest: Manifest) -> TestSamples:
    table = CropTable(stage.CACHE / "val")
    return TestSamples(table, table.labelled(), manifest.bbox_padding, manifest.codec)


def forms(manifest: Manifest, path: Path, device: torch.device, folder: Path) -> Iterator[Any]:
    """Name and form, one after the other; graphs are written into the folder."""
    model = torch_network(manifest, path, device)
    yield "torch eager float32", torch_form(KeypointsGraph(model, manifest, False), device)
    yield "the same, flip test", torch_form(KeypointsGraph(model, manifest, True), device)
    compiled = torch.compile(model)
    yield "torch.compile float32", torch_form(KeypointsGraph(compiled, manifest, False), device)
    if device.type == "cuda":
        half = HalfNetwork(model)
        yield "torch eager float16", torch_form(KeypointsGraph(half, manifest, False), device)
        if CUDA not in onnxruntime.get_available_providers():
            print(f"ONNX Runtime {onnxruntime.__version__} has no {CUDA}; left out")
            return
    yield from onnx_forms(
        manifest, torch_network(manifest, path, torch.device("cpu")), folder, device
    )


def onnx_forms(
    manifest: Manifest, model: torch.nn.Module, folder: Path, device: torch.device
) -> Iterator[Any]:
    """Name and form of each file in ONNX."""
    width, height = manifest.codec.input_size
    example = torch.zeros(3, height, width, 3, dtype=torch.uint8)
    full = folder / "float32.onnx"
    for name, network, flip in (
        ("float32", model, False),
        ("float32, flip test", model, True),
        ("float16", HalfNetwork(model), False),
    ):
        path = folder / f"{name}.onnx"
        write_keypoints_onnx(KeypointsGraph(network, manifest, flip).eval(), example, path)
        yield f"ONNX Runtime {name}", onnx_form(path, device)
    if device.type == "cuda":
        return
    yield "OpenVINO float32", openvino_form(full)
    calibration = cached_crops("train", manifest, CALIBRATION)
    for part, operators in INT8.items():
        path = folder / f"int8 {part}.onnx"
        write_int8(full, path, calibration, operators)
        yield f"ONNX Runtime int8, {part}", onnx_form(path, device)
        yield f"OpenVINO int8, {part}", openvino_form(path)


def predict(form: Form, samples: TestSamples, crops: Crops) -> Predictions:
    """Predictions of all crops, in image pixels; the last batch is filled with copies."""
    size = max(BATCHES)
    parts = []
    for start in range(0, len(crops), size):
        batch = crops[start : start + size]
        filled = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
        parts.append([array[: len(batch)] for array in form(filled)])
    keypoints, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    boxes = [samples.box(int(row)) for row in samples.rows]
    center, scale = (np.stack(column) for column in zip(*boxes, strict=True))
    input_wh = samples.codec.input_size
    return Predictions(
        geometry.heatmap_to_image(keypoints.astype(np.float64), center, scale, input_wh),
        scores.astype(np.float64),
        samples.rows.astype(np.int64),
    )


def average_precision(manifest: Manifest, samples: TestSamples, found: Predictions) -> float:
    """COCOeval's AP, as evaluate.py's main result."""
    areas = samples.padded_areas(found.rows)
    thresholds = manifest.keypoint_score_thr, manifest.oks_nms_thr
    category = manifest.category_id
    results = to_results(samples.table, found, areas, *thresholds, manifest.sigmas, category)
    return coco_eval(read_json(stage.CACHE / "ground_truth.json"), results, manifest.sigmas)["AP"]


def crops_per_second(form: Form, crops: Crops, seconds: float, device: torch.device) -> float:
    """Rate over as many calls as fill so many seconds; at least one."""
    start, calls = clock(device), 0
    while (spent := clock(device) - start) < seconds or not calls:
        form(crops)
        calls += 1
    return calls * len(crops) / spent if spent > 0 else 0.0


def measure(
    manifest: Manifest,
    named: dict[str, Form],
    device: torch.device,
    rounds: int,
    seconds: float,
) -> list[Row]:
    samples = val_samples(manifest)
    crops = np.stack([samples[i]["image"][..., ::-1] for i in range(len(samples))])
    aps = {
        name: average_precision(manifest, samples, predict(form, samples, crops))
        for name, form in named.items()
    }
    rates: dict[str, dict[int, list[float]]] = {name: {b: [] for b in BATCHES} for name in named}
    for form in named.values():
        form(crops[:1])  # not measured: torch.compile compiles for this size
    for number in range(rounds):
        for name, form in named.items():
            for batch in BATCHES:
                rate = crops_per_second(form, crops[:batch], seconds, device)
                rates[name][batch].append(rate)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return [Row(name, aps[name], rates[name]) for name in named]


def section(command: str, device: torch.device, rows: list[Row], people: int) -> str:
    """This device's section of the page; ratios are to the first row, in the same round."""
    titles = [f"crops/s, batch {batch} | ratio" for batch in BATCHES]
    unit = "CPU time of one thread" if device.type == "cpu" else "wall-clock time"
    lines = [
        f"## {device_name(device)}\n",
        f"`{command}`, torch {torch.__version__.split('+')[0]}, ONNX Runtime "
        f"{onnxruntime.__version__}, {people} people of val; {unit}; ratios to the first row.\n",
        f"| form | AP | {' | '.join(titles)} |",
        f"|---|---|{'---|---|' * len(BATCHES)}",
    ]
    for row in rows:
        cells = []
        for batch in BATCHES:
            first = rows[0].rates[batch]
            ratios = [a / b for a, b in zip(row.rates[batch], first, strict=True)]
            cells += [
                f"{statistics.median(row.rates[batch]):.0f}",
                f"{statistics.median(ratios):.2f}",
            ]
        lines.append(f"| {row.name} | {row.ap:.4f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(name: str, device: torch.device, rounds: int, seconds: float) -> None:
    torch.set_num_threads(1)
    command = shlex.join(["python", "benchmarks/inference.py", *sys.argv[1:]])
    manifest = build_manifest(project_params())
    with tempfile.TemporaryDirectory() as folder:
        named = dict(forms(manifest, project_weights(name), device, Path(folder)))
        rows = measure(manifest, named, device, rounds, seconds)
    text = section(command, device, rows, len(val_samples(manifest)))
    print(text)
    page = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else HEAD
    write_atomic(PAGE, with_section(page, text).encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", choices=("phase1", "phase2", "ssl"), default="ssl", help="trained stage (ssl)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(cpu)")
    parser.add_argument("--rounds", type=int, default=5, help="of every form (5)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a form in a round (0.5)")
    arguments = parser.parse_args()
    main(arguments.model, torch.device(arguments.device), arguments.rounds, arguments.seconds)
