"""What phase 2 and stage 2 train (train.finetune): all weights, adapters and the head, or the head.

Phase 1 trains the head, whatever train.finetune is. A phase that trains only a part saves only that
part, with the digest of data/weights/start.safetensors, its base.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pose.common.errors import PoseError
from pose.common.params import Params
from pose.engine.fit import freeze_backbone_
from pose.models.adapter import (
    Base,
    add_adapters_,
    base_of,
    cast_frozen_,
    find_base,
    is_adapter,
    load_adapters_,
)
from pose.models.checkpoint import load_model, load_state, read_base, read_own
from pose.models.pose_model import PoseModel


def freeze_for_phase1_(model: PoseModel, params: Params, start: Path) -> Base | None:
    """Freeze the backbone, which was loaded from `start`, and store it as model.frozen_dtype says.

    Returns the base of the file that the phase saves; None if that has all weights. With
    train.finetune: full the next phase starts from the float32 weights of the base.
    """
    freeze_backbone_(model)
    cast_frozen_(model, params.model.frozen_dtype)
    partial = params.train.finetune != "full"
    if not partial and params.model.frozen_dtype == "float32":
        return None
    return base_of(start, params.model.frozen_dtype if partial else "float32")


def load_for_training_(model: PoseModel, params: Params, start: Path) -> Base | None:
    """Load an earlier phase's file and freeze what train.finetune does not train.

    Returns the base of the file that the phase saves; None if that has all weights. Raises
    PoseError if the files do not fit.
    """
    if params.train.finetune == "full":
        load_model(model, start)
        return None
    if (base := read_base(start)) is None:
        raise PoseError(
            f"{start}: has all weights, but train.finetune = {params.train.finetune!r} builds on "
            "a file of trained parts; rerun the stage that writes it"
        )
    own = read_own(start)
    plain = {name: tensor for name, tensor in own.items() if not is_adapter(name)}
    load_state(model, read_own(find_base(start, base)) | plain, start)
    freeze_for_phase2_(model, params)
    load_adapters_(model, own)
    return replace(base, alpha=params.lora.alpha if params.train.finetune == "lora" else None)


def freeze_for_phase2_(model: PoseModel, params: Params) -> None:
    """Add adapters to a loaded model, or freeze its backbone, as train.finetune says."""
    if params.train.finetune == "lora":
        add_adapters_(model, params.lora, params.model.family)
    elif params.train.finetune == "head":
        freeze_backbone_(model)
    cast_frozen_(model, params.model.frozen_dtype)
