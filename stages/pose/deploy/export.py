"""Exported models: the ONNX and torch.export files, their check, and the model card."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCardData
from torch import Tensor, nn
from torch.export import ExportedProgram

from pose.common.errors import PoseError
from pose.deploy.predictor import INPUT, OUTPUT, OnnxNetwork

OPSET = 18  # ONNX Runtime 1.14 and later
TOLERANCE = 1e-4  # largest difference of a map's value; peaks are about 1
EXTERNAL_BYTES = 1 << 30  # of weights; above, they lie beside the .onnx, which holds 2 GB at most
BATCH = {"images": {0: torch.export.Dim("batch")}}
SAPIENS = "cc-by-nc-4.0"
RENDERED = "rendered people of this project"
DATASETS = {"synthetic": RENDERED, "coco": "COCO 2017", "local": "own annotations"}


def trace(model: nn.Module, images: Tensor) -> ExportedProgram:
    """The model as a graph for any batch size; images (B, 3, h, w), B >= 2, show the other sizes.

    torch.export.save writes it.
    """
    with _quiet():
        return torch.export.export(model, (images,), dynamic_shapes=BATCH)


def write_onnx(program: ExportedProgram, images: Tensor, path: Path) -> None:
    """The graph as ONNX."""
    weights = sum(tensor.nbytes for tensor in program.state_dict.values())
    with _quiet():
        torch.onnx.export(
            program,
            (images,),
            path,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=BATCH,
            external_data=weights > EXTERNAL_BYTES,
            verbose=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporters warn of their own insides."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


def verify(model: nn.Module, images: Tensor, onnx: Path, program: Path) -> dict[str, float]:
    """Largest difference of either file's maps to the model's, over batches of one and of all.

    Raises PoseError if one is above TOLERANCE.
    """
    others = {onnx.name: OnnxNetwork(onnx), program.name: torch.export.load(program).module()}
    found = {name: _difference(model, other, images) for name, other in others.items()}
    for name, difference in found.items():
        if not difference <= TOLERANCE:
            raise PoseError(
                f"{name}: its maps differ from torch's by {difference:.1e}, more than "
                f"{TOLERANCE:.0e}; nothing is written"
            )
    return found


@torch.no_grad()
def _difference(model: nn.Module, other: Callable[[Tensor], Tensor], images: Tensor) -> float:
    batches = (images[:1], images)
    return max(float((model(some) - other(some)).abs().max()) for some in batches)


@contextlib.contextmanager
def replacing_folder(out: Path, mark: str) -> Iterator[Path]:
    """A folder beside `out` to fill, which takes its place at the end; on trouble it goes.

    Only an empty folder, or one that holds a file `mark`, is replaced. Killed between the last two
    renames, what was there before lies in <out>.<letters>/old.
    """
    out = out.resolve()
    if out.exists() and not (out / mark).is_file() and (out.is_file() or any(out.iterdir())):
        raise PoseError(f"{out}: is there already, and no exported model; choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f"{out.name}.", dir=out.parent))
    beside, old = place / "new", place / "old"
    beside.mkdir()
    try:
        yield beside
        if out.exists():
            os.replace(out, old)
        os.replace(beside, out)
    finally:
        if out.exists() or not old.exists():
            shutil.rmtree(place, ignore_errors=True)


def licence(provenance: dict[str, Any]) -> tuple[str | None, str]:
    """The Hub's name of the licence, None if nobody else's binds, and a sentence about it.

    provenance: of the starting weights, as fetch_weights wrote it.
    """
    source = str(provenance.get("source", "unknown"))
    if "sapiens" in source.lower():
        return SAPIENS, "Sapiens' weights are CC BY-NC 4.0, and so is what is trained from them."
    if source.startswith("random initialisation"):
        return None, "The weights started from random numbers: no other model's licence binds them."
    return "other", "The licence of the starting weights binds these as well; see their source."


def front_matter(name: str, licence_id: str | None, source: str, scores: dict[str, float]) -> str:
    """YAML of the card's head; source: data.source, scores by COCO's names, none if unknown."""
    results = [
        EvalResult(
            task_type="keypoint-detection",
            dataset_type=source,
            dataset_name=DATASETS[source],
            metric_type=metric,
            metric_value=round(value, 4),
        )
        for metric, value in scores.items()
    ]
    card = ModelCardData(
        license=licence_id,
        license_name="as-the-starting-weights" if licence_id == "other" else None,
        pipeline_tag="keypoint-detection",
        tags=["pose-estimation", "top-down", "vit", "onnx"],
        model_name=name,
        eval_results=results or None,
    )
    return card.to_yaml()
