"""What to turn when a training step does not fit into memory.

No stage itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import stage
from pose import distributed
from pose.errors import PoseError
from pose.params import Params


@contextmanager
def enough_memory(params: Params) -> Iterator[None]:
    """Turns out-of-memory errors into a PoseError that names the dials and their values."""
    try:
        yield
    except RuntimeError as error:
        if not stage.is_torch_memory(error):
            raise
        said = ". ".join(str(error).split(". ")[:2]).rstrip(".")
        raise PoseError(f"params.yaml: {said}; {_dials(params)}") from None


def _dials(params: Params) -> str:
    """What takes less memory, with the present values; those at their end are left out."""
    law, model = params.train, params.model
    per_step = law.batch_size // distributed.world_size()
    dials = [
        f"train.accumulate = {law.accumulate} (more)" if law.accumulate < per_step else "",
        "" if model.grad_checkpointing else "model.grad_checkpointing = false (true)",
        "train.amp = none (bf16)" if law.amp == "none" else "",
        "train.parallel = ddp (fsdp, with NPROC)" if law.parallel == "ddp" else "",
        f"train.ema_decay = {law.ema_decay} (0)" if law.ema_decay else "",
        f"train.batch_size = {law.batch_size} (less)",
    ]
    return "turn one of " + ", ".join(dial for dial in dials if dial)
