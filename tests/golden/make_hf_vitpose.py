"""Makes data/hf_vitpose_*: two tiny random ViTPose models of Hugging Face's transformers, and maps.

    pip install --target /tmp/hf --no-deps transformers==5.23.0 tokenizers regex
    PYTHONPATH=/tmp/hf python tests/golden/make_hf_vitpose.py

No dependency of the project. The classic head's 256 channels, fixed in transformers, are replaced
by 8 and 6 after the model is built: its forward pass is theirs, its files stay small. Seconds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

DATA = Path(__file__).with_name("data")


def tiny(simple: bool) -> VitPoseForPoseEstimation:
    backbone = VitPoseBackboneConfig(
        image_size=(32, 24),
        patch_size=(8, 8),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        out_indices=[2],
    )
    config = VitPoseConfig(backbone_config=backbone, use_simple_decoder=simple, num_labels=17)
    model = VitPoseForPoseEstimation(config)
    if not simple:
        head = model.head
        head.deconv1 = nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1, bias=False)
        head.batchnorm1 = nn.BatchNorm2d(8)
        head.deconv2 = nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1, bias=False)
        head.batchnorm2 = nn.BatchNorm2d(6)
        head.conv = nn.Conv2d(6, 17, 1)
    return model


def randomise_(model: nn.Module, generator: torch.Generator) -> None:
    """Weights far from their initial law, so that each of them moves the maps."""
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(noise.abs() + 0.5)
        elif "norm" in name and name.endswith("weight"):
            tensor.copy_(1 + 0.3 * noise)
        elif name.startswith("head.conv."):
            tensor.copy_(0.1 * noise)  # maps of about 1, as heatmaps are
        else:
            tensor.copy_(0.3 * noise)


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 32, 24, generator=generator)
    arrays = {"images": images.numpy()}
    for kind in ("classic", "simple"):
        model = tiny(kind == "simple").eval()
        with torch.no_grad():
            randomise_(model, generator)
            arrays[kind] = model(images).heatmaps.numpy()  # (2, 17, 16, 12)
        model.save_pretrained(DATA / kind)
        (DATA / kind / "model.safetensors").rename(DATA / f"hf_vitpose_{kind}.safetensors")
        for path in (DATA / kind).iterdir():
            path.unlink()
        (DATA / kind).rmdir()
    np.savez_compressed(DATA / "hf_vitpose_io.npz", **arrays)


if __name__ == "__main__":
    main()
