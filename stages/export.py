"""Write a trained model as files that other programs run: ONNX, torch.export, and all about it.

    python stages/export.py --out exported                   # the final model
    python stages/export.py --model phase2 --out exported

Writes into the folder, which is replaced as a whole and only once everything is verified:
model.onnx (opset 18, any batch size), model.pt2 (torch.export), model.safetensors (the weights as
trained), pose.json (input size, normalisation, codec, keypoints, how it is tested, versions) and
README.md (a model card). Both graphs take normalised images and give maps, and are run and compared
with torch: a difference above 1e-4 stops it. Reads params.yaml, models/, data/cache and, for the
card, metrics/evaluate. No stage of the chain. Half a minute with the embedded default.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
from pathlib import Path
from typing import Any

import jinja2
import torch

from pose.common import stage
from pose.common.files import digest, read_json, write_atomic, write_json
from pose.common.log import log
from pose.common.params import Params
from pose.common.script import exit_codes
from pose.deploy.export import (
    DATASETS,
    OPSET,
    front_matter,
    licence,
    replacing_folder,
    trace,
    verify,
    write_onnx,
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
from pose.models.checkpoint import read_provenance

NAME = "export"
PROGRAM = "model.pt2"
FINAL = "ssl"
TEMPLATE = "card.md.j2"
PACKAGES = ("torch", "timm", "onnx", "onnxscript", "onnxruntime")
EXAMPLES = 3  # images that the graphs are compared on


def main(name: str, out: Path) -> None:
    params = project_params()
    path, manifest = project_weights(name), build_manifest(params)
    model = torch_network(manifest, path, torch.device("cpu"))
    w, h = manifest.codec.input_size
    images = torch.randn(EXAMPLES, 3, h, w, generator=torch.Generator().manual_seed(0))
    with replacing_folder(out, FILE) as folder:
        program = trace(model, images)
        torch.export.save(program, folder / PROGRAM)
        write_onnx(program, images, folder / ONNX)
        differences = verify(model, images, folder / ONNX, folder / PROGRAM)
        for file, difference in differences.items():
            log(f"{NAME}: {file} differs from torch by {difference:.1e} at most")
        shutil.copyfile(path, folder / SAFETENSORS)
        facts = _facts(name, path, differences)
        write_json(folder / FILE, describe(manifest) | facts)
        write_atomic(
            folder / "README.md", _card(out.resolve().name, params, manifest, facts).encode()
        )
    log(f"{NAME}: {out} holds {name}")


def _facts(name: str, path: Path, differences: dict[str, float]) -> dict[str, Any]:
    """What pose.json tells besides the manifest."""
    return {
        "trained": {"model": name, "sha256": digest(path), "start": read_provenance(path)},
        "onnx": {"opset": OPSET, "input": INPUT, "output": OUTPUT},
        "largest_difference_to_torch": differences,
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }


def _card(title: str, params: Params, manifest: Manifest, facts: dict[str, Any]) -> str:
    licence_id, terms = licence(facts["trained"]["start"])
    dataset = DATASETS[params.data.source]
    scores = _scores(facts["trained"]["model"], params.evaluate.asked_models[-1])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "pose" / "deploy"),
        keep_trailing_newline=True,
    )
    return environment.get_template(TEMPLATE).render(
        front_matter=front_matter(title, licence_id, params.data.source, scores),
        title=title,
        manifest=manifest,
        dataset=dataset,
        source=params.data.source,
        scores=scores,
        terms=terms,
        files=(ONNX, PROGRAM, SAFETENSORS),
        **facts,
    )


def _scores(name: str, of_headline: str) -> dict[str, float]:
    """COCO's numbers of the headline if they are of this model; none for others or without."""
    path, measured = stage.ROOT / stage.METRICS / "evaluate" / "metrics.json", of_headline
    if name != measured or not path.is_file():
        log(f"{NAME}: no scores of {name} for the model card; `dvc repro` measures {measured}")
        return {}
    found = read_json(path)
    return {key: found[key] for key in ("AP", "AP50", "AP75", "AR") if key in found}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("phase1", "phase2", "ssl"), default=FINAL)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _arguments()
    with exit_codes(NAME):
        main(arguments.model, arguments.out)
