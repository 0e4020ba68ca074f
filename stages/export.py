"""Export a trained model for other programs: ONNX, torch.export, settings and a model card.

    python stages/export.py --out exported                   # the final model
    python stages/export.py --model phase2 --out exported
    python stages/export.py --out exported --format transformers --push owner/name

Writes these files; the folder is replaced as a whole, after everything is verified:
model.onnx (opset 18, any batch size), model_keypoints.onnx (the same with all steps from crop to
keypoints), model.pt2 (torch.export), model.safetensors (the weights as trained), pose.json (input
size, normalisation, codec, keypoints, test settings, licence, versions) and README.md (a model
card). model.onnx and model.pt2 take normalised images and return heatmaps; model_keypoints.onnx
takes RGB crops of uint8 and returns keypoints in pixels of the crop, and scores. A model that was
trained with adapters is merged in all of them; the folder adapter has its adapter and head as peft
stores them. All are run and compared with torch: a difference above 1e-4, or 1e-3 pixel, is an
error (1e-3 with model.rope_dtype bf16, whose roundings depend on the order of sums). --half adds
model_keypoints_fp16.onnx, whose network is in float16, and --int8 model_keypoints_int8.onnx, whose
matrix products are in int8; both are compared with float32 on val. --format transformers writes
config.json, model.safetensors, preprocessor_config.json, pose.json and README.md instead, for
VitPoseForPoseEstimation or Sapiens2ForPoseEstimation. --push uploads the folder into a new
repository of the Hugging Face Hub, private unless --public, with the token in HF_TOKEN. Reads
params.yaml, models/, data/cache and, for the card, metrics/evaluate and data/predictions. Not a
stage of the pipeline. Takes half a minute with the embedded default.
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
        "--format", choices=("onnx", "transformers"), default="onnx", help="what is written (onnx)"
    )
    parser.add_argument(
        "--flip",
        action="store_true",
        help="model_keypoints.onnx does the flip test",
    )
    parser.add_argument(
        "--half", action="store_true", help="also model_keypoints_fp16.onnx, in float16"
    )
    parser.add_argument(
        "--int8", action="store_true", help="also model_keypoints_int8.onnx, for CPUs"
    )
    parser.add_argument(
        "--push", metavar="OWNER/NAME", help="new repository on the Hub to upload to"
    )
    parser.add_argument("--public", action="store_true", help="--push: not private")
    arguments = parser.parse_args()
    if arguments.format == "transformers" and (arguments.flip or arguments.half or arguments.int8):
        parser.error("--flip, --half and --int8 are of --format onnx")
    if arguments.public and not arguments.push:
        parser.error("--public is of --push")
    return arguments


if __name__ == "__main__":
    arguments = _arguments()  # neither --help nor a missing token waits for the imports below
    if arguments.push:
        from pose.common.script import exit_codes
        from pose.deploy.push import require_token

        with exit_codes("export"):
            require_token(arguments.push)

import importlib.metadata
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import jinja2
import torch

from pose.common import stage
from pose.common.files import digest, read_json, write_atomic, write_json
from pose.common.licence import Licence, licence_of
from pose.common.log import log
from pose.common.params import Params
from pose.common.script import exit_codes
from pose.deploy import half, int8
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
    main_calibration,
    project_calibration,
    project_params,
    project_weights,
)
from pose.deploy.precision import PEOPLE, cached_crops, compare_with_float32
from pose.deploy.predictor import INPUT, ONNX, OUTPUT, SAFETENSORS, torch_network
from pose.deploy.push import push
from pose.deploy.transformers_model import (
    CLASSES,
    PROCESSORS,
    require_expressible,
    write_transformers,
)
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
TEMPLATE, TRANSFORMERS_TEMPLATE = "card.md.j2", "card_transformers.md.j2"
PACKAGES = ("torch", "timm", "onnx", "onnxscript", "onnxruntime")
EXAMPLES = 3  # images on which the graphs are compared with torch


def main(name: str, out: Path, flip: bool, precisions: Sequence[str] = ()) -> None:
    """Write the ONNX graphs, the torch.export program, the weights, pose.json and the card."""
    params = project_params()
    path = project_weights(name)
    calibration = project_calibration(path)
    manifest = replace(build_manifest(params), calibration=calibration)
    if calibration is None:
        main_model = params.evaluate.asked_models[-1]
        log(f"{NAME}: no calibration of keypoint scores; `dvc repro` fits that of {main_model}")
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
        if "fp16" in precisions:
            keypoints["fp16"] = _write_half(model, manifest, folder, flip)
        if "int8" in precisions:
            keypoints["int8"] = _write_int8(manifest, folder)
        _write_weights(path, folder)
        info = _provenance(name, path, params.model.family) | {
            "onnx": {"opset": OPSET, "input": INPUT, "output": OUTPUT, "keypoints": keypoints},
            "largest_difference_to_torch": differences,
        }
        _write_settings(folder, out, params, manifest, info)
    log(f"{NAME}: wrote {name} to {out}")


def main_transformers(name: str, out: Path) -> None:
    """Write the folder that transformers loads, with pose.json and the card."""
    params = project_params()
    path, manifest = project_weights(name), build_manifest(params)
    require_expressible(manifest)
    state = torch_network(manifest, path, torch.device("cpu")).state_dict()
    with replacing_folder(out, FILE) as folder:
        write_transformers(manifest, state, folder)
        info = _provenance(name, path, params.model.family)
        _write_settings(folder, out, params, manifest, info, TRANSFORMERS_TEMPLATE)
    log(f"{NAME}: wrote {name} to {out} for {CLASSES[params.model.family]}")


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


def _write_half(model: PoseModel, manifest: Manifest, folder: Path, flip: bool) -> dict[str, Any]:
    """Write model_keypoints_fp16.onnx and compare it on val; returns its entry of pose.json."""
    w, h = manifest.codec.input_size
    graph = KeypointsGraph(half.HalfNetwork(model), manifest, flip).eval()
    path = folder / half.HALF_ONNX
    write_keypoints_onnx(graph, torch.zeros(EXAMPLES, h, w, 3, dtype=torch.uint8), path)
    return _compared(manifest, path, half.MEDIAN_TOLERANCE)


def _write_int8(manifest: Manifest, folder: Path) -> dict[str, Any]:
    """Write model_keypoints_int8.onnx and compare it on val; returns its entry of pose.json."""
    path = folder / int8.INT8_ONNX
    int8.write_int8(
        folder / KEYPOINTS_ONNX, path, cached_crops("train", manifest, int8.CALIBRATION)
    )
    return _compared(manifest, path, int8.MEDIAN_TOLERANCE)


def _compared(manifest: Manifest, path: Path, tolerance: float) -> dict[str, Any]:
    """Entry of pose.json of a graph of lower precision, compared with float32's on val."""
    crops = cached_crops("val", manifest, PEOPLE)
    pixels = compare_with_float32(path, path.with_name(KEYPOINTS_ONNX), crops, tolerance)
    log(
        f"{NAME}: keypoints of {path.name} differ from float32's by {pixels['median']:.1e} pixel "
        f"in the median, {pixels['max']:.1e} at most, on {pixels['people']} people of val"
    )
    return {"file": path.name, "pixels_from_float32": pixels}


def _provenance(name: str, path: Path, family: str) -> dict[str, Any]:
    """Entries of pose.json beside the manifest: the trained file, licence and versions."""
    start = read_provenance(path)
    return {
        "trained": {"model": name, "sha256": digest(path), "start": start},
        "licence": asdict(licence_of(start, family)),
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }


def _write_settings(
    folder: Path,
    out: Path,
    params: Params,
    manifest: Manifest,
    info: dict[str, Any],
    template: str = TEMPLATE,
) -> None:
    """Write pose.json and the model card, both with the digest of the weights in the folder."""
    info = info | {"weights": {"file": SAFETENSORS, "sha256": digest(folder / SAFETENSORS)}}
    write_json(folder / FILE, describe(manifest) | info)
    card = _card(out.resolve().name, params, manifest, info, template)
    write_atomic(folder / "README.md", card.encode())


def _card(
    title: str,
    params: Params,
    manifest: Manifest,
    info: dict[str, Any],
    template: str,
) -> str:
    licence = Licence(**info["licence"])
    dataset = DATASETS[params.data.source]
    measured = _main_result(info["trained"])
    scores = _scores(measured)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "pose" / "deploy"),
        keep_trailing_newline=True,
    )
    library = "transformers" if template == TRANSFORMERS_TEMPLATE else None
    return environment.get_template(template).render(
        front_matter=front_matter(title, licence, params.data.source, scores, library),
        title=title,
        manifest=manifest,
        dataset=dataset,
        also=[entry.name for entry in params.data.also or ()],
        source=params.data.source,
        scores=scores,
        measured=measured,
        family=params.model.family,
        network=CLASSES[params.model.family],
        processor=PROCESSORS[params.model.family],
        **info,
    )


def _main_result(trained: dict[str, Any]) -> dict[str, Any]:
    """metrics.json of evaluate, and its `flip_test`, if it is of these weights; else {}.

    Which weights it is of, and whether with the flip test, is what its calibration says.
    """
    path = stage.ROOT / stage.METRICS / "evaluate" / "metrics.json"
    fitted = main_calibration()
    if fitted is None or fitted.weights_sha256 != trained["sha256"] or not path.is_file():
        log(
            f"{NAME}: no scores of these weights of {trained['model']} for the model card; "
            "`dvc repro evaluate` measures the last of evaluate.models"
        )
        return {}
    metrics: dict[str, Any] = read_json(path)
    return metrics | {"flip_test": fitted.flip_test}


def _scores(metrics: dict[str, Any]) -> dict[str, float]:
    """The COCO metrics of the card; -1 is COCO's value for "no such person is annotated"."""
    found = {key: metrics[key] for key in ("AP", "AP50", "AP75", "AR") if key in metrics}
    return {key: value for key, value in found.items() if value != -1}


if __name__ == "__main__":
    with exit_codes(NAME):
        if arguments.format == "transformers":
            main_transformers(arguments.model, arguments.out)
        else:
            asked = {"fp16": arguments.half, "int8": arguments.int8}
            precisions = [name for name, wanted in asked.items() if wanted]
            main(arguments.model, arguments.out, arguments.flip, precisions)
        if arguments.push:
            address = push(arguments.out, arguments.push, arguments.public)
            log(f"{NAME}: uploaded {arguments.out} to {address}")
