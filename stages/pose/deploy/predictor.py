"""Poses of the persons in a picture, by a trained model, in three lines:

    from pose.deploy.predictor import Predictor
    predictor = Predictor.load("exported")
    keypoints, scores = predictor(image_rgb, boxes_xywh)

The geometry is evaluate's: padded box, UDP warp, flip test, refined peaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pose.codecs import geometry
from pose.common.errors import PoseError
from pose.deploy.manifest import FILE, Manifest, read_manifest
from pose.evaluation.coco_metrics import oks_nms, rescore
from pose.evaluation.predict import predict_maps
from pose.models.build import autocast
from pose.models.checkpoint import load_model
from pose.models.vit import PoseModel, normalise

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
ONNX, SAFETENSORS = "model.onnx", "model.safetensors"


@dataclass(frozen=True)
class Predictor:
    """A network and what it is about; flip: average with the mirrored picture."""

    network: nn.Module  # normalised images (B, 3, h, w) -> maps
    about: Manifest
    flip: bool
    batch_size: int  # persons a forward pass: memory, no results
    device: torch.device
    amp: str = "none"  # autocast, as params.yaml's train.amp

    @classmethod
    def load(
        cls,
        path: Path | str,
        flip: bool | None = None,
        batch_size: int = 32,
        device: torch.device | str = "cpu",
    ) -> Predictor:
        """Of an exported folder, by ONNX Runtime; of the model.safetensors in it, by torch.

        flip None: as the model was evaluated. Raises PoseError if a file is absent or damaged.
        """
        path, device = Path(path), torch.device(device)
        folder = path if path.is_dir() else path.parent
        about = read_manifest(folder / FILE)
        network: nn.Module
        if path.is_dir():
            network = OnnxNetwork(folder / ONNX)
        else:
            network = torch_network(about, path, device)
        flip = about.flip_test if flip is None else flip
        return cls(network, about, flip, batch_size, device)

    @torch.no_grad()
    def __call__(self, image_rgb: Image, boxes_xywh: Any) -> tuple[Array, Array]:
        """Keypoints (N, K, 2) in image pixels and scores (N, K): raw heights of the peaks.

        image_rgb (H, W, 3) uint8, boxes_xywh (N, 4) in its pixels. Raises PoseError for others.
        """
        boxes = _checked(image_rgb, boxes_xywh)
        count = self.about.skeleton.num_keypoints
        keypoints, scores = np.empty((len(boxes), count, 2)), np.empty((len(boxes), count))
        for start in range(0, len(boxes), self.batch_size):
            some = slice(start, start + self.batch_size)
            keypoints[some], scores[some] = self._predict(image_rgb, boxes[some])
        return keypoints, scores

    def _predict(self, image: Image, boxes: Array) -> tuple[Array, Array]:
        codec, places = self.about.codec, [self.box(box) for box in boxes]
        crops = [cut(image, center, scale, codec.input_size) for center, scale in places]
        pixels = torch.from_numpy(np.stack(crops)[..., ::-1].copy())  # BGR, as in training
        with autocast(self.device, self.amp):
            images = normalise(pixels.to(self.device))
            maps = predict_maps(self.network, codec, images, self.flip)
        peaks, scores = codec.decode(maps, self.about.blur, refine=True)
        centers, scales = (np.stack(column) for column in zip(*places, strict=True))
        cells = peaks.double().cpu().numpy()
        keypoints = geometry.heatmap_to_image(cells, centers, scales, codec.heatmap_size)
        return keypoints, scores.double().cpu().numpy()

    def box(self, bbox_xywh: Array) -> tuple[Array, Array]:
        """Centre (2,) and padded, aspect-fixed size (2,) of a box, image pixels."""
        about = self.about
        return geometry.bbox_to_center_scale(bbox_xywh, about.bbox_padding, about.codec.input_size)

    def rank(
        self, boxes_xywh: Array, box_scores: Array, keypoints: Array, scores: Array
    ) -> tuple[NDArray[np.intp], Array]:
        """Indices of the poses that OKS-NMS keeps, the best first, and the score of every pose.

        As evaluate: box score times mean keypoint score.
        """
        about = self.about
        totals = rescore(scores, box_scores, about.keypoint_score_thr)
        areas = np.array([np.prod(self.box(box)[1]) for box in boxes_xywh])
        return oks_nms(keypoints, totals, areas, about.oks_nms_thr, about.sigmas), totals


def torch_network(about: Manifest, path: Path, device: torch.device) -> PoseModel:
    """The model with the weights of a .safetensors file, ready to predict."""
    model = PoseModel(about.model)
    load_model(model, path)
    return model.to(device).eval()


def cut(image: Image, center: Array, scale: Array, input_wh: tuple[int, int]) -> Image:
    """The network's input (h, w, 3) of a box, black outside the image, in the image's colours.

    Warped from the part of the image that it shows: a large picture costs no more than a small one.
    """
    affine = geometry.udp_affine(center, scale, 0.0, input_wh)
    image_wh = np.array(image.shape[1::-1])
    first = np.clip(np.floor(center - scale / 2) - 1, 0, image_wh - 1).astype(int)
    last = np.clip(np.ceil(center + scale / 2) + 2, first + 1, image_wh).astype(int)
    part = np.ascontiguousarray(image[first[1] : last[1], first[0] : last[0]])
    return geometry.warp(part, geometry.compose(affine, geometry.translate(first)), input_wh)


def to_results(
    image_id: int, category_id: int, keypoints: Array, scores: Array, totals: Array
) -> list[dict[str, Any]]:
    """COCO results of one picture's poses: keypoints as x, y, keypoint score."""
    triples = np.concatenate([keypoints, scores[..., None]], axis=2).round(4)
    return [
        {
            "image_id": image_id,
            "category_id": category_id,
            "keypoints": triple.reshape(-1).tolist(),
            "score": float(total),
        }
        for triple, total in zip(triples, totals, strict=True)
    ]


def _checked(image: Image, boxes_xywh: Any) -> Array:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise PoseError(f"image is {image.shape} {image.dtype}, expected (H, W, 3) uint8, RGB")
    boxes = np.asarray(boxes_xywh, dtype=np.float64)
    if not boxes.size:
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise PoseError(f"boxes are {boxes.shape}, expected (N, 4): x, y, width, height")
    if not np.isfinite(boxes).all() or (boxes[:, 2:].max(axis=1) <= 0).any():
        raise PoseError("boxes hold one that is not finite or has no width and no height")
    return boxes


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
