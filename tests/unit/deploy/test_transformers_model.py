"""transformers' own classes load the folder, and give the maps and keypoints of the model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from loopback import failure
from pose.codecs.gaussian import Blur
from pose.deploy.manifest import Manifest
from pose.deploy.predictor import Predictor
from pose.deploy.transformers_model import require_expressible, write_transformers
from pose.models.pose_model import PoseModel
from pose.models.spec import ModelSpec
from tiny_model import tiny_manifest

CLASSIC = {"head": "classic", "deconv_channels": (256, 256), "conv_channels": ()}
SIMPLE = {"head": "simple", "deconv_channels": (), "conv_channels": ()}
SAPIENS2 = {"family": "sapiens2", "depth": 17, "patch_padding": 0, "mlp_dim": 40}
BOXES = [[20.0, 10.0, 60.0, 80.0], [-5.0, 30.0, 40.0, 50.0]]


def manifest_of(**sizes: Any) -> Manifest:
    """Of a tiny model that transformers can have, if sizes are."""
    manifest = tiny_manifest()
    interpolation = "cubic" if sizes.get("family") == "sapiens2" else "linear"
    codec = replace(manifest.codec, interpolation=interpolation)
    spec = replace(manifest.model, **{"depth": 2} | sizes)
    return replace(manifest, model=spec, codec=codec, flip_test=False)


def randomised(spec: ModelSpec) -> PoseModel:
    """Weights far from their initial values, so that each of them moves the maps."""
    model, generator = PoseModel(spec).eval(), torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(noise.abs() + 0.5)
        elif name.startswith("head.final_layer."):
            tensor.copy_(0.1 * noise)  # maps of about 1, as heatmaps are
        elif tensor.is_floating_point():
            tensor.copy_(0.3 * noise + (1 if "norm" in name and "weight" in name else 0))
    return model


def load(folder: Path) -> nn.Module:
    """The model by the class that config.json names; every tensor of the file is used."""
    (name,) = json.loads((folder / "config.json").read_text())["architectures"]
    cls = getattr(transformers, name)
    model, report = cls.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


@pytest.mark.parametrize(
    "sizes",
    [
        CLASSIC,
        SIMPLE,
        SIMPLE | {"mlp_dim": 32, "patch_size": 16, "input_wh": (48, 64)},
        SAPIENS2 | {"rope_dtype": "fp32"},
    ],
)
def test_transformers_maps_are_ours(tmp_path: Path, sizes: dict[str, Any]) -> None:
    manifest = manifest_of(**sizes)
    model = randomised(manifest.model)
    write_transformers(manifest, model.state_dict(), tmp_path)
    theirs = load(tmp_path)
    width, height = manifest.model.input_wh
    images = torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mine, found = model(images), theirs(images).heatmaps
        mirrored = theirs(images.flip(3), flip_pairs=torch.tensor(theirs.config.flip_pairs))
        flipped = manifest.codec.flip_back(model(images.flip(3)))
    assert 0.1 < mine.std() < 30
    assert (mine - found).abs().max() <= 1e-4
    assert (flipped - mirrored.heatmaps).abs().max() <= 1e-4
    assert theirs.config.id2label == dict(enumerate(manifest.skeleton.names))


def test_the_processor_crops_and_normalises_as_predictor(tmp_path: Path) -> None:
    """Pixels differ by what OpenCV's and SciPy's linear interpolation differ: 1/32 pixel."""
    manifest = manifest_of(**SIMPLE)
    write_transformers(manifest, randomised(manifest.model).state_dict(), tmp_path)
    processor = transformers.VitPoseImageProcessor.from_pretrained(tmp_path)
    y, x = np.mgrid[:110, :130]
    image = np.stack([x, y, (x + y) / 2], axis=2).astype(np.uint8)
    found = processor(image, boxes=[BOXES[:1]], return_tensors="pt")["pixel_values"]

    class Seen(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.images = images
            return images.new_zeros(len(images), 17, 16, 12)

    network = Seen()
    Predictor(network, manifest, False, 32, torch.device("cpu"))(image, BOXES[:1])
    assert (found - network.images).abs().max() < 2 / 57  # two grey levels


def test_keypoints_agree_where_maps_have_a_peak(tmp_path: Path) -> None:
    """transformers blurs with a sigma of 0.8; on gaussian maps DARK finds the centre anyway.

    Half a pixel is a fourteenth of a cell here.
    """
    manifest = manifest_of(**SIMPLE)
    write_transformers(manifest, randomised(manifest.model).state_dict(), tmp_path)
    processor = transformers.VitPoseImageProcessor.from_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    cells = torch.from_numpy(rng.uniform((5, 5), (7, 11), (2, 17, 2)))  # far from the borders
    targets = torch.cat([cells, torch.ones(2, 17, 1)], dim=2).float()
    maps = manifest.codec.render(targets)

    class Fixed(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return maps

    blurred = replace(manifest, blur=Blur(11, "mirror"))
    predictor = Predictor(Fixed(), blurred, False, 32, torch.device("cpu"))
    keypoints, scores = predictor(np.zeros((110, 130, 3), np.uint8), BOXES)
    outputs = transformers.utils.ModelOutput(heatmaps=maps)
    poses = processor.post_process_pose_estimation(outputs, boxes=[BOXES])[0]
    for pose, expected, score in zip(poses, keypoints, scores, strict=True):
        assert np.ptp(expected, axis=0).min() > 5
        np.testing.assert_allclose(pose["keypoints"], expected, rtol=0, atol=0.5)
        np.testing.assert_allclose(pose["scores"], score, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({}, "model.head = sapiens, but VitPoseForPoseEstimation of transformers has classic or s"),
        (CLASSIC | {"deconv_channels": (8, 8)}, "model.deconv_channels = [8, 8], but"),
        (CLASSIC | {"conv_channels": (8,)}, "model.conv_channels = [8], but"),
        (SIMPLE | {"patch_padding": 0}, "model.patch_padding = 0, but"),
        (SIMPLE | {"patch_size": 4}, "model.patch_size = 4, but"),
        (SIMPLE | {"mlp_dim": 40}, "model.mlp_dim = 40, but"),
        (SAPIENS2 | {"patch_padding": 2}, "model.patch_padding = 2, but Sapiens2ForPoseEstimatio"),
        (SAPIENS2 | {"head": "classic"}, "model.head = classic, but Sapiens2ForPoseEstimation"),
    ],
)
def test_what_a_class_cannot_have_is_refused(sizes: dict[str, Any], text: str) -> None:
    line = failure(require_expressible, manifest_of(**sizes))
    assert line.startswith(f"params.yaml: {text}")
    assert line.endswith("export without --format transformers")


def test_codec_and_boxes_that_a_class_cannot_have_are_refused() -> None:
    manifest = manifest_of(**SIMPLE)
    require_expressible(manifest)
    combined = replace(manifest, codec=replace(manifest.codec, type="combined"))
    cubic = replace(manifest, codec=replace(manifest.codec, interpolation="cubic"))
    for other, text in (
        (combined, "codec.type = combined, but"),
        (cubic, "codec.interpolation = cubic, but"),
        (replace(manifest, bbox_padding=1.5), "augment.bbox_padding = 1.5, but"),
    ):
        assert text in failure(require_expressible, other)
