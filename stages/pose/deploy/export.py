"""Export of a model: ONNX and torch.export files, their verification, and the model card."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from huggingface_hub import EvalResult, ModelCardData
from torch import Tensor, nn
from torch.export import ExportedProgram

from pose.common.errors import PoseError
from pose.common.licence import Licence
from pose.deploy.predictor import INPUT, OUTPUT, OnnxNetwork
from pose.models.spec import ModelSpec

OPSET = 18  # ONNX Runtime 1.14 and later
TOLERANCE = 1e-4  # largest absolute difference of a heatmap value; peaks are about 1
BF16_TOLERANCE = 1e-3  # the same for a model that rounds to bfloat16 inside
EXTERNAL_BYTES = 1 << 30  # larger weights are in a separate file: an .onnx holds 2 GB at most
BATCH = ({0: torch.export.Dim("batch")},)
DATASETS = {
    "synthetic": "rendered people of this project",
    "coco": "COCO 2017",
    "local": "own annotations",
}


def trace(model: nn.Module, images: Tensor) -> ExportedProgram:
    """The model as a torch.export program for any batch size.

    images (B, ...) with B >= 2 is the example input: it fixes all sizes except B.
    """
    with _quiet():
        return torch.export.export(model, (images,), dynamic_shapes=BATCH)


def write_onnx(
    program: ExportedProgram,
    images: Tensor,
    path: Path,
    inputs: Sequence[str] = (INPUT,),
    outputs: Sequence[str] = (OUTPUT,),
) -> None:
    """Write the program as an ONNX file; images as in `trace`. Inputs and outputs get the names."""
    weights = sum(tensor.nbytes for tensor in program.state_dict.values())
    with _quiet():
        torch.onnx.export(
            program,
            (images,),
            path,
            dynamo=True,
            opset_version=OPSET,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=BATCH,
            external_data=weights > EXTERNAL_BYTES,
            verbose=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without gradients and without the warnings of torch's exporters about their own code."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


def tolerance_of(spec: ModelSpec) -> float:
    """Largest allowed difference of a heatmap value between two runtimes.

    With a rotary embedding in bfloat16, float32 sums in another order flip single roundings.
    """
    in_bf16 = spec.family == "sapiens2" and spec.rope_dtype == "bf16"
    return BF16_TOLERANCE if in_bf16 else TOLERANCE


def verify(
    model: nn.Module, images: Tensor, onnx: Path, program: Path, tolerance: float = TOLERANCE
) -> dict[str, float]:
    """Compare the heatmaps of both exported files with the model's, on batches of 1 and B images.

    Returns the largest absolute difference per file name. Raises PoseError if one is above the
    tolerance or NaN.
    """
    exported = {onnx.name: OnnxNetwork(onnx), program.name: torch.export.load(program).module()}
    differences = {name: _difference(model, other, images) for name, other in exported.items()}
    for name, difference in differences.items():
        if not difference <= tolerance:
            raise PoseError(
                f"{name}: its heatmaps differ from torch's by {difference:.1e}, more than "
                f"{tolerance:.0e}; nothing was written"
            )
    return differences


@torch.no_grad()
def _difference(model: nn.Module, other: Callable[[Tensor], Tensor], images: Tensor) -> float:
    batches = (images[:1], images)
    return max(float((model(batch) - other(batch)).abs().max()) for batch in batches)


@contextlib.contextmanager
def replacing_folder(out: Path, marker: str) -> Iterator[Path]:
    """Yield a new folder beside `out`, which replaces `out` at the end and is deleted on errors.

    Raises PoseError unless `out` is absent, an empty folder or a folder with a file `marker`. If
    the process is killed between the last two renames, the old folder is in <out>.<letters>/old.
    """
    out = out.resolve()
    if out.exists() and not (out / marker).is_file() and (out.is_file() or any(out.iterdir())):
        raise PoseError(f"{out}: exists and is not an exported model; choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(prefix=f"{out.name}.", dir=out.parent))
    new, old = workspace / "new", workspace / "old"
    new.mkdir()
    try:
        yield new
        if out.exists():
            os.replace(out, old)
        os.replace(new, out)
    finally:
        if out.exists() or not old.exists():
            shutil.rmtree(workspace, ignore_errors=True)


def front_matter(
    name: str,
    licence: Licence,
    source: str,
    scores: dict[str, float],
    library: str | None = None,
) -> str:
    """YAML header of the model card.

    source: value of data.source. scores: by COCO metric name; empty if not measured. library: that
    loads the files, by its name at the Hub.
    """
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
        license=licence.hub_id,
        license_name=licence.hub_name,
        license_link=licence.link,
        library_name=library,
        pipeline_tag="keypoint-detection",
        tags=["pose-estimation", "top-down", "vit", *([] if library else ["onnx"])],
        model_name=name,
        eval_results=results or None,
    )
    return card.to_yaml()
