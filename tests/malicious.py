"""Objects that run a function when they are unpickled, for tests that this never happens."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import torch


class Trap:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def traps(harm: Path) -> dict[str, Trap]:
    """Objects that create the folder `harm` when they are unpickled."""
    code = f"__import__('os').mkdir({str(harm)!r})"
    return {
        "mkdir": Trap(os.mkdir, str(harm)),
        "eval": Trap(eval, code),
        "exec": Trap(exec, code),
        "process": Trap(subprocess.check_call, ["mkdir", str(harm)]),
        "wrapped": Trap(torch.utils._pytree.tree_map, os.mkdir, str(harm)),
    }
