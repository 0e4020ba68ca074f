"""A network that ONNX Runtime runs, in the place of the torch model it was exported from."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from pose.errors import PoseError

INPUT, OUTPUT = "images", "heatmaps"


class OnnxNetwork(nn.Module):
    """images (B, 3, h, w), normalised -> maps (B, K or 3 K, H, W), as model.PoseModel's."""

    def __init__(self, path: Path) -> None:
        """Raises PoseError if the file cannot be run."""
        super().__init__()
        if not path.is_file():
            raise PoseError(f"{path}: no such file; export the model again")
        try:
            self.session = onnxruntime.InferenceSession(path, providers=_providers())
        except Exception as error:  # the runtime's own exceptions share no narrower class
            reason = " ".join(str(error).split())
            raise PoseError(f"{path}: not a readable ONNX model ({reason})") from None

    def forward(self, images: Tensor) -> Tensor:
        fed = {INPUT: images.cpu().numpy()}
        return torch.from_numpy(self.session.run([OUTPUT], fed)[0])


def _providers() -> list[str]:
    """CUDA where this build of the runtime has it, else the CPU."""
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    return [name for name in wanted if name in onnxruntime.get_available_providers()]
