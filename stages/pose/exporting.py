"""A trained model as files that other programs run: ONNX and torch.export, compared with torch."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from pose.errors import PoseError
from pose.runtime import INPUT, OUTPUT, OnnxNetwork

OPSET = 18  # ONNX Runtime 1.14 and later
TOLERANCE = 1e-4  # largest difference of a map's value; peaks are about 1
EXTERNAL_BYTES = 1 << 30  # of weights; above, they lie beside the .onnx, which holds 2 GB at most
BATCH = {"images": {0: torch.export.Dim("batch")}}


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
def _quiet() -> Iterator[None]:
    """torch's exporters warn of their own insides."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


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
