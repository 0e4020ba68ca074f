"""Export a trained model for other programs: ONNX, torch.export, settings and a model card.

    python stages/export.py --out exported                   # the final model
    python stages/export.py --model phase2 --out exported

Writes these files; the folder is replaced as a whole, after everything is verified:
model.onnx (opset 18, any batch size), model_keypoints.onnx (the same with all steps from crop to
keypoints), model.pt2 (torch.export), model.safetensors (the weights as trained), pose.json (input
size, normalisation, codec, keypoints, test settings, licence, versions) and README.md (a model
card). model.onnx and model.pt2 take normalised images and return heatmaps; model_keypoints.onnx
takes RGB crops of uint8 and returns keypoints in pixels of the crop, and scores. A model that was
trained with adapters is merged in all of them; the folder adapter has its adapter and head as peft
stores them. All are run and
compared with torch: a difference above 1e-4, or 1e-3 pixel, is an error (1e-3 with model.rope_dtype
bf16, whose roundings depend on the order of sums). Reads params.yaml, models/, data/cache and, for
the card, metrics/evaluate. Not a stage of the pipeline. Takes half a minute with the embedded
default.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pose  # noqa: F401  # before torch, which reads OpenMP's variables


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", choices=("phase1", "phase2", "ssl"), default="ssl", help="trained stage (ssl)"
    )
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument(
        "--flip",
        action="store_true",
        help="model_keypoints.onnx does the flip test",
    )
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _arguments()  # --help does not wait for the imports below

import importlib.metadata
import shutil
from dataclasses import asdict
from typing import Any

import jinja2
import torch

from pose.common import stage
from pose.common.files import digest, read_json, write_atomic, write_json
from pose.common.licence import Licence, licence_of
from pose.common.log import log
from pose.common.params import Params
from pose.common.script import exit_codes
from pose.deploy.adapter import ADAPTER, write_adapter
from pose.deploy.export import (
    DATASETS,
    OPSET,
    front_matter,
    replacing_folder,
    tolerance_of,
    trace,
    verify,
    write_onnx,
)
from pose.deploy.keypoints_graph import (
    CROPS,
    KEYPOINTS,
    KEYPOINTS_ONNX,
    SCORES,
    KeypointsGraph,
    verify_keypoints,
    write_keypoints_onnx,
)
from pose.deploy.manifest import (
    FILE,
    Manifest,
    build_manifest,
    describe,
    project_params,
    project_weights,
)
from pose.deploy.predictor import INPUT, ONNX, OUTPUT, SAFETENSORS, torch_network
from pose.models.checkpoint import (
    read_base,
    read_own,
    read_provenance,
    read_weights,
    save_weights,
)
from pose.models.pose_model import PoseModel

NAME = "export"
PROGRAM = "model.pt2"
TEMPLATE = "card.md.j2"
PACKAGES = ("torch", "timm", "onnx", "onnxscript", "onnxruntime")
EXAMPLES = 3  # images on which the graphs are compared with torch


def main(name: str, out: Path, flip: bool) -> None:
    params = project_params()
    path, manifest = project_weights(name), build_manifest(params)
    model = torch_network(manifest, path, torch.device("cpu"))
    w, h = manifest.codec.input_size
    images = torch.randn(EXAMPLES, 3, h, w, generator=torch.Generator().manual_seed(0))
    with replacing_folder(out, FILE) as folder:
        program = trace(model, images)
        torch.export.save(program, folder / PROGRAM)
        write_onnx(program, images, folder / ONNX)
        tolerance = tolerance_of(manifest.model)
        differences = verify(model, images, folder / ONNX, folder / PROGRAM, tolerance)
        for file, difference in differences.items():
            log(f"{NAME}: {file} differs from torch by {difference:.1e} at most")
        keypoints = _write_keypoints(model, manifest, folder, flip, differences[ONNX])
        _write_weights(path, folder)
        info = _export_info(name, path, differences, keypoints, params.model.family)
        write_json(folder / FILE, describe(manifest) | info)
        write_atomic(
            folder / "README.md", _card(out.resolve().name, params, manifest, info).encode()
        )
    log(f"{NAME}: wrote {name} to {out}")


def _write_weights(path: Path, folder: Path) -> None:
    """The weights as trained; those of a model with a base merged, and beside them its adapter."""
    if base := read_base(path):
        save_weights(folder / SAFETENSORS, read_weights(path), read_provenance(path))
        if not write_adapter(folder / ADAPTER, read_own(path), base):
            log(f"{NAME}: no folder {ADAPTER}: peft's files cannot hold what {path} has")
    else:
        shutil.copyfile(path, folder / SAFETENSORS)


def _write_keypoints(
    model: PoseModel, manifest: Manifest, folder: Path, flip: bool, heatmap_difference: float
) -> dict[str, Any]:
    """Write and verify model_keypoints.onnx; returns its entry of pose.json."""
    w, h = manifest.codec.input_size
    generator = torch.Generator().manual_seed(0)
    crops = torch.randint(0, 256, (EXAMPLES, h, w, 3), generator=generator, dtype=torch.uint8)
    graph, path = KeypointsGraph(model, manifest, flip).eval(), folder / KEYPOINTS_ONNX
    write_keypoints_onnx(graph, crops, path)
    tolerance = tolerance_of(manifest.model)
    differences = verify_keypoints(graph, crops, path, heatmap_difference, tolerance)
    log(
        f"{NAME}: {KEYPOINTS_ONNX} differs from torch by {differences[KEYPOINTS]:.1e} pixel and "
        f"{differences[SCORES]:.1e} in score at most"
    )
    return {
        "file": KEYPOINTS_ONNX,
        "input": CROPS,
        "outputs": [KEYPOINTS, SCORES],
        "flip_test": flip,
        "largest_difference_to_torch": differences,
    }


def _export_info(
    name: str,
    path: Path,
    differences: dict[str, float],
    keypoints: dict[str, Any],
    family: str,
) -> dict[str, Any]:
    """Entries of pose.json beside the manifest."""
    start = read_provenance(path)
    return {
        "trained": {"model": name, "sha256": digest(path), "start": start},
        "licence": asdict(licence_of(start, family)),
        "onnx": {"opset": OPSET, "input": INPUT, "output": OUTPUT, "keypoints": keypoints},
        "largest_difference_to_torch": differences,
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }


def _card(title: str, params: Params, manifest: Manifest, info: dict[str, Any]) -> str:
    licence = Licence(**info["licence"])
    dataset = DATASETS[params.data.source]
    scores = _scores(info["trained"]["model"], params.evaluate.asked_models[-1])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "pose" / "deploy"),
        keep_trailing_newline=True,
    )
    return environment.get_template(TEMPLATE).render(
        front_matter=front_matter(title, licence, params.data.source, scores),
        title=title,
        manifest=manifest,
        dataset=dataset,
        source=params.data.source,
        scores=scores,
        family=params.model.family,
        files=(ONNX, KEYPOINTS_ONNX, PROGRAM, SAFETENSORS),
        **info,
    )


def _scores(name: str, main_model: str) -> dict[str, float]:
    """COCO metrics of the main result, if it was measured with this model; else {}."""
    path = stage.ROOT / stage.METRICS / "evaluate" / "metrics.json"
    if name != main_model or not path.is_file():
        log(f"{NAME}: no scores of {name} for the model card; `dvc repro` measures {main_model}")
        return {}
    metrics = read_json(path)
    return {key: metrics[key] for key in ("AP", "AP50", "AP75", "AR") if key in metrics}


if __name__ == "__main__":
    with exit_codes(NAME):
        main(arguments.model, arguments.out, arguments.flip)
