"""The graph from crops to keypoints equals Predictor; the example on docs/predict.md, too."""

from __future__ import annotations

import ast
import functools
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loopback import failure
from pose.codecs.gaussian import Blur
from pose.codecs.geometry import apply_affine, udp_affine
from pose.common.files import write_json
from pose.deploy import keypoints_graph
from pose.deploy.keypoints_graph import (
    KEYPOINTS_ONNX,
    KeypointsGraph,
    verify_keypoints,
    write_keypoints_onnx,
)
from pose.deploy.manifest import FILE, Manifest, describe
from pose.deploy.predictor import Predictor, warp_box
from pose.models.pose_model import PIXEL_MEAN, PIXEL_STD
from tiny_model import random_model, tiny_manifest

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[3]
K = 17
LEVEL = (1.0,) * K
# Of the three colours in turn. The others are near the lower end of DARK's logarithm, and above its
# upper end.
UNEVEN = tuple((1.0, 0.005, 100.0)[k // 3 % 3] for k in range(K))
BOXES = np.array([[20, 10, 60, 80], [-5, 30, 40, 50], [70, 20, 30, 60]], dtype=np.float64)


class Painted(nn.Module):
    """Maps that are the crop's own colours: keypoint k is colour k % 3 of RGB, heights[k] high."""

    def __init__(self, manifest: Manifest, heights: Sequence[float] = LEVEL) -> None:
        super().__init__()
        self.size, planes = manifest.codec.heatmap_size[::-1], manifest.model.maps_per_keypoint
        self.heights = torch.tensor(heights).repeat_interleave(planes)[:, None, None]
        self.planes = [(k + plane) % 3 for k in range(K) for plane in range(planes)]

    def forward(self, images: Tensor) -> Tensor:
        mean, std = (images.new_tensor(x)[:, None, None] for x in (PIXEL_MEAN, PIXEL_STD))
        colours = (images * std + mean) / 255
        resized = F.interpolate(colours, self.size, mode="bilinear", align_corners=True)
        return resized[:, self.planes] * self.heights


def manifest_of(codec_type: str, border: str = "zero") -> Manifest:
    manifest = tiny_manifest(3 if codec_type == "combined" else 1)
    codec = replace(manifest.codec, type=codec_type)
    return replace(manifest, codec=codec, blur=Blur(11, border))


def picture(box: np.ndarray, seed: int) -> np.ndarray:
    """A picture (110, 130, 3) with one spot of each colour in the box: red the brightest."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:110, :130]
    image = np.zeros((110, 130, 3))
    for channel, height in enumerate((250, 210, 170)):
        cx, cy = np.clip(box[:2] + rng.random(2) * box[2:], 0, (129, 109))
        image[..., channel] = height * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 8.0**2))
    return image.round().astype(np.uint8)


PICTURES = [picture(box, seed) for seed, box in enumerate(BOXES)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, kept_operators: None) -> Callable[..., Path]:
    """Path of the graph of a Painted; each is written once, in 3 s. Read only."""

    @functools.cache
    def export(codec_type: str, border: str, flip: bool, heights: tuple[float, ...]) -> Path:
        manifest = manifest_of(codec_type, border)
        graph = KeypointsGraph(Painted(manifest, heights), manifest, flip)
        width, input_height = graph.codec.input_size
        crops = torch.zeros(2, input_height, width, 3, dtype=torch.uint8)
        path = tmp_path_factory.mktemp("exported") / KEYPOINTS_ONNX
        write_keypoints_onnx(graph.eval(), crops, path)
        return path

    return export


@pytest.mark.parametrize(
    ("codec_type", "border", "flip", "heights"),
    [
        ("gaussian", "zero", True, LEVEL),
        ("gaussian", "zero", False, UNEVEN),
        ("gaussian", "mirror", True, LEVEL),
        ("combined", "zero", False, LEVEL),
        ("combined", "zero", True, LEVEL),
    ],
)
def test_crops_give_the_keypoints_of_predictor(
    exported: Callable[..., Path], codec_type: str, border: str, flip: bool, heights: tuple
) -> None:
    manifest = manifest_of(codec_type, border)
    network = Painted(manifest, heights)
    predictor = Predictor(network, manifest, flip, 32, CPU)
    path = exported(codec_type, border, flip, heights)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    regions = [predictor.box(box) for box in BOXES]
    crops = [warp_box(im, *r, manifest.codec) for im, r in zip(PICTURES, regions, strict=True)]
    assert min(crop.max() for crop in crops) > 200
    keypoints, scores = session.run(["keypoints", "scores"], {"crops": np.stack(crops)})
    for i, (center, scale) in enumerate(regions):
        expected, expected_scores = predictor(PICTURES[i], BOXES[i : i + 1])
        affine = udp_affine(center, scale, 0.0, manifest.codec.input_size)
        expected_input = apply_affine(affine, expected[0])
        assert np.ptp(expected_input, axis=0).max() > 3
        np.testing.assert_allclose(keypoints[i], expected_input, rtol=0, atol=1e-3)
        relative = [found / heights for found in (scores[i], expected_scores[0])]
        np.testing.assert_allclose(*relative, rtol=0, atol=1e-5)
        alone = session.run(None, {"crops": crops[i][None]})
        np.testing.assert_allclose(alone[0][0], keypoints[i], rtol=0, atol=1e-5)


def test_the_graph_says_what_it_takes(exported: Callable[..., Path]) -> None:
    model = onnx.load(exported("gaussian", "zero", True, LEVEL))
    onnx.checker.check_model(model)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]
    found = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert found == {
        "crops": ["batch", 32, 24, 3],
        "keypoints": ["batch", K, 2],
        "scores": ["batch", K],
    }
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


@pytest.mark.usefixtures("kept_operators")
def test_a_network_of_sapiens2_passes(tmp_path: Path) -> None:
    """Of the other family: test_flip_reaches_the_graph_and_pose_json of test_export.py."""
    manifest = tiny_manifest()
    spec = replace(manifest.model, family="sapiens2", patch_padding=0)
    manifest = replace(manifest, model=spec)
    graph = KeypointsGraph(random_model(manifest), manifest, True).eval()
    crops = torch.randint(0, 256, (3, 32, 24, 3), dtype=torch.uint8)
    write_keypoints_onnx(graph, crops, tmp_path / KEYPOINTS_ONNX)
    found = verify_keypoints(graph, crops, tmp_path / KEYPOINTS_ONNX, 1e-5)
    assert set(found) == {"keypoints", "scores"}
    assert 0 < found["keypoints"] < 1e-3
    assert found["scores"] < 1e-4


def test_a_file_that_differs_is_an_error(exported: Callable[..., Path]) -> None:
    manifest, path = manifest_of("gaussian"), exported("gaussian", "zero", True, LEVEL)
    crops = torch.from_numpy(np.stack([cv2.resize(image, (24, 32)) for image in PICTURES]))

    class NoScores(KeypointsGraph):
        def decode(self, maps: Tensor) -> tuple[Tensor, Tensor]:
            keypoints, scores = super().decode(maps)
            return keypoints, scores * float("nan")

    def line(other: Manifest, height: float, kind: type[KeypointsGraph] = KeypointsGraph) -> str:
        graph = kind(Painted(other, (height,) * K), other, True)
        return failure(verify_keypoints, graph, crops, path, 0.0)

    found = line(replace(manifest, blur=Blur(5)), 1.0)
    assert "model_keypoints.onnx: its keypoints differ from torch's by " in found
    assert found.endswith(" pixel, more than 1e-03; nothing was written")
    found = line(manifest, 1.0005)
    assert found.endswith(
        "its scores differ from torch's by 4.5e-04, more than 1e-04; nothing was written"
    )
    assert "its scores differ from torch's by nan" in line(manifest, 1.0, NoScores)


def test_keypoints_that_rounding_moves_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps with one peak, with two equal ones, and without any: only the first is compared."""
    manifest = manifest_of("gaussian")
    one, other = manifest.codec.render(torch.tensor([[[4.0, 5, 1], [9, 12, 1]]]))[0]
    maps = torch.stack([one, one + other, torch.full_like(one, 0.5)])[None]

    class Fixed(KeypointsGraph):
        def maps(self, crops: Tensor) -> Tensor:
            return maps

    graph = Fixed(nn.Identity(), manifest, False)
    keypoints, scores = (tensor.numpy() for tensor in graph.decode(maps))
    shift = np.array([0.0, 8.0, 8.0])[None, :, None]

    def network(path: Path) -> SimpleNamespace:
        outputs = [(keypoints + shift).astype(np.float32), scores]
        return SimpleNamespace(session=SimpleNamespace(run=lambda *_: outputs))

    monkeypatch.setattr(keypoints_graph, "OnnxNetwork", network)
    arguments = graph, torch.zeros(1, 32, 24, 3), Path("x.onnx"), 0.0
    assert verify_keypoints(*arguments) == {"keypoints": 0.0, "scores": 0.0}
    shift = shift + 0.01
    assert "x.onnx: its keypoints differ from torch's by 1.4e-02 pixel" in failure(
        verify_keypoints, *arguments
    )


ONLY = """  # refuses imports of packages other than those of the example
import runpy, sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {"numpy", "cv2", "onnxruntime"} | sys.stdlib_module_names:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refusing())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def example() -> str:
    page = (ROOT / "docs" / "predict.md").read_text(encoding="utf-8")
    (code,) = page.split("### Without this project")[1].split("```python\n")[1:]
    return code.split("```")[0]


def test_the_example_imports_three_packages() -> None:
    nodes = list(ast.walk(ast.parse(example())))
    imported = {
        alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
    }
    assert imported == {"json", "sys", "cv2", "numpy", "onnxruntime"}
    assert not any(isinstance(node, ast.ImportFrom) for node in nodes)
    assert len(example().splitlines()) <= 40


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_the_example_gives_the_keypoints_of_predictor(
    exported: Callable[..., Path], tmp_path: Path, interpolation: str
) -> None:
    manifest = manifest_of("gaussian")
    manifest = replace(manifest, codec=replace(manifest.codec, interpolation=interpolation))
    network, folder = Painted(manifest), tmp_path / "exported"
    folder.mkdir()
    write_json(folder / FILE, describe(manifest))
    shutil.copy(exported("gaussian", "zero", True, LEVEL), folder)  # crops are warped outside it
    (tmp_path / "keypoints.py").write_text(example(), encoding="utf-8")
    predictor = Predictor(network, manifest, True, 32, CPU)
    boxes = [BOXES[0], BOXES[1], np.array([80, 20, 10, 12])]  # the last is enlarged
    for box in boxes:
        image = picture(box, 3)
        cv2.imwrite(str(tmp_path / "photo.png"), image[..., ::-1])
        command = [sys.executable, "-I", "-c", ONLY, "keypoints.py", "photo.png", *map(str, box)]
        shown = subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout
        names, *numbers = zip(*(line.split() for line in shown.splitlines()), strict=True)
        keypoints, scores = predictor(image, box[None])
        assert names == manifest.skeleton.names
        found = np.array(numbers, dtype=float).T
        np.testing.assert_allclose(found[:, :2], keypoints[0], rtol=0, atol=5e-3)
        np.testing.assert_allclose(found[:, 2], scores[0], rtol=0, atol=1e-4)
