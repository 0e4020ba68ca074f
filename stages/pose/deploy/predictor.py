"""Predict the poses of people in a picture with a trained model:

    from pose.deploy.predictor import Predictor
    predictor = Predictor.load("exported")
    keypoints, scores = predictor(image_rgb, boxes_xywh)

Preprocessing and decoding are those of evaluate.py: padded box, UDP warp, flip test, refined peaks.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pose.analysis.calibration import Calibration
from pose.coco.decode import PixelSettings
from pose.coco.images import BadImageError
from pose.codecs import geometry
from pose.codecs.udp import UdpCodec
from pose.common.errors import PoseError
from pose.deploy.manifest import FILE, Manifest, read_manifest
from pose.deploy.media import read_picture
from pose.evaluation.coco_metrics import keypoint_areas, oks_nms, rescore
from pose.evaluation.predict import (
    Predictions,
    concat_predictions,
    empty_predictions,
    predict_batches,
)
from pose.models.checkpoint import load_state
from pose.models.pose_model import PoseModel
from pose.pretrained.select import read_model

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
ONNX, SAFETENSORS = "model.onnx", "model.safetensors"
INPUT, OUTPUT = "images", "heatmaps"  # names in the ONNX graph


@dataclass(frozen=True)
class Predictor:
    """Network, manifest and test settings; called with an image and boxes."""

    network: nn.Module  # normalised images (B, 3, h, w) -> heatmaps
    manifest: Manifest
    flip: bool  # average the heatmaps with those of the mirrored image
    batch_size: int  # people per forward pass; changes memory, not results
    device: torch.device
    amp: str = "none"  # autocast dtype, as train.amp in params.yaml

    @classmethod
    def load(
        cls,
        path: Path | str,
        flip: bool | None = None,
        batch_size: int = 32,
        device: torch.device | str = "cpu",
    ) -> Predictor:
        """Load an exported folder with ONNX Runtime, or the model.safetensors in it with torch.

        flip: None takes flip_test of the manifest. Raises PoseError if a file is absent or damaged.
        """
        path, device = Path(path), torch.device(device)
        folder = path if path.is_dir() else path.parent
        manifest = read_manifest(folder / FILE)
        network: nn.Module
        if path.is_dir():
            network = OnnxNetwork(folder / ONNX)
        else:
            network = torch_network(manifest, path, device)
        flip = manifest.flip_test if flip is None else flip
        return cls(network, manifest, flip, batch_size, device)

    def __call__(self, image: Any, boxes_xywh: Any) -> tuple[Array, Array]:
        """Keypoints (N, K, 2) in image pixels and scores (N, K), the heatmap peak values.

        image: an array (H, W, 3) RGB or (H, W) grey of uint8, a PIL image of mode RGB or L, or the
        path of a picture, which is read as in training. boxes_xywh (N, 4) in image pixels, width
        and height above 0. Raises PoseError for anything else.
        """
        image_rgb = read_image(image, self.manifest.pixels)
        [poses] = self.predict_images([image_rgb], [boxes_xywh])
        return poses

    def predict_images(
        self, images: Sequence[Image], boxes_xywh: Sequence[Any]
    ) -> list[tuple[Array, Array]]:
        """Keypoints and scores as above of each RGB image (H, W, 3) with its boxes (N, 4).

        People of several images are in one forward pass. Raises PoseError for invalid boxes, and if
        a pose is not finite.
        """
        boxes = [_checked_boxes(some) for some in boxes_xywh]
        codec, tta = self.manifest.codec, "flip" if self.flip else "none"
        decoders = {"refined": partial(codec.decode, blur=self.manifest.blur, refine=True)}
        people = [(image, box) for image, some in zip(images, boxes, strict=True) for box in some]
        parts = predict_batches(
            self.network, codec, self._batches(people), self.device, self.amp, decoders, [tta]
        )
        empty = empty_predictions(self.manifest.skeleton.num_keypoints)
        predictions = concat_predictions([empty, *(part[tta, "refined"] for part in parts)])
        _require_finite(predictions, [box for _, box in people])
        ends = np.cumsum([len(some) for some in boxes])[:-1]
        columns = (np.split(column, ends) for column in (predictions.keypoints, predictions.scores))
        return list(zip(*columns, strict=True))

    def _batches(self, people: Sequence[tuple[Image, Array]]) -> Iterator[dict[str, Any]]:
        """Input batches of predict_batches; the channels are BGR, as in training."""
        for start in range(0, len(people), self.batch_size):
            part = people[start : start + self.batch_size]
            regions = [self.box(box) for _, box in part]
            crops = [
                warp_box(image, *region, self.manifest.codec)
                for (image, _), region in zip(part, regions, strict=True)
            ]
            center, scale = (np.stack(column) for column in zip(*regions, strict=True))
            yield {
                "image": torch.from_numpy(np.stack(crops)[..., ::-1].copy()),
                "center": torch.from_numpy(center),
                "scale": torch.from_numpy(scale),
                "row": torch.arange(start, start + len(regions)),
            }

    def box(self, bbox_xywh: Array) -> tuple[Array, Array]:
        """Centre (2,) and padded, aspect-fixed size (2,) of a box, in image pixels."""
        padding, input_wh = self.manifest.bbox_padding, self.manifest.codec.input_size
        return geometry.bbox_to_center_scale(bbox_xywh, padding, input_wh)

    def rank(
        self, boxes_xywh: Array, box_scores: Array, keypoints: Array, scores: Array
    ) -> tuple[NDArray[np.intp], Array]:
        """Indices of the poses that remain after OKS-NMS, best first, and the score of every pose.

        As in evaluate.py: box score times mean keypoint score.
        """
        manifest = self.manifest
        totals = rescore(scores, box_scores, manifest.keypoint_score_thr)
        if manifest.nms_area == "keypoints":
            areas = keypoint_areas(keypoints)
        else:
            input_wh = manifest.codec.input_size
            areas = geometry.padded_areas(boxes_xywh, manifest.bbox_padding, input_wh)
        kept = oks_nms(keypoints, totals, areas, manifest.oks_nms_thr, manifest.sigmas)
        return kept, totals

    def require_calibration(self) -> Calibration:
        """The map of scores to the probabilities that keypoints are right.

        Raises PoseError if the model has none, or if it was fitted with another flip test.
        """
        calibration = self.manifest.calibration
        if calibration is None:
            raise PoseError(
                "this model has no calibration: `dvc repro evaluate` fits one for the last of "
                "evaluate.models alone, and stages/export.py copies it; make this model the last "
                "of evaluate.models, or omit --calibrated"
            )
        if calibration.flip_test != self.flip:
            state = "with" if calibration.flip_test else "without"
            raise PoseError(f"the calibration was fitted {state} the flip test; predict {state} it")
        return calibration


def read_image(image: Any, pixels: PixelSettings) -> Image:
    """RGB pixels (H, W, 3) of an image as Predictor takes it; raises PoseError for another."""
    if isinstance(image, str | Path):
        try:
            return read_picture(Path(image), pixels)[0]
        except BadImageError as error:
            raise PoseError(f"{image}: {error}") from None
    if isinstance(image, PIL.Image.Image):
        if image.mode not in ("RGB", "L"):
            raise PoseError(
                f"image is a PIL image of mode {image.mode}, expected RGB or L; use "
                "image.convert('RGB')"
            )
        try:
            image = np.asarray(image)
        except OSError as error:  # PIL reads the pixels only now
            raise PoseError(f"image is a PIL image that cannot be read: {error}") from None
    if not isinstance(image, np.ndarray):
        raise PoseError(
            f"image is a {type(image).__name__}, expected an array, a PIL image or a path"
        )
    is_grey = image.ndim == 2
    if image.dtype != np.uint8 or not image.size or not (is_grey or image.shape[2:] == (3,)):
        raise PoseError(
            f"image is {image.shape} {image.dtype}, expected uint8 of (H, W, 3), RGB, or (H, W), "
            "grey"
        )
    return np.repeat(image[..., None], 3, axis=2) if is_grey else image


def _checked_boxes(boxes_xywh: Any) -> Array:
    try:
        boxes = np.asarray(boxes_xywh, dtype=np.float64)
    except (TypeError, ValueError):
        raise PoseError(f"boxes are {reprlib.repr(boxes_xywh)}, expected (N, 4) numbers") from None
    if not boxes.size:
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise PoseError(f"boxes are {boxes.shape}, expected (N, 4): x, y, width, height")
    usable = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)
    if not usable.all():
        index = int(np.flatnonzero(~usable)[0])
        raise PoseError(
            f"box {index} is {boxes[index].tolist()}, expected 4 finite numbers x, y, width, "
            "height, the last two above 0"
        )
    return boxes


def _require_finite(predictions: Predictions, boxes: Sequence[Array]) -> None:
    """Raise PoseError if a keypoint or score is NaN or infinite; boxes: one (4,) per pose."""
    values = np.concatenate([predictions.keypoints, predictions.scores[..., None]], axis=2)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))
    if len(bad):
        raise PoseError(
            f"the pose in the box {boxes[bad[0]].tolist()} has NaN or infinity ({len(bad)} of "
            f"{len(boxes)} poses predicted together have); use other weights"
        )


def warp_box(image: Image, center: Array, scale: Array, codec: UdpCodec) -> Image:
    """Warp the box to the network's input size (h, w, 3); black outside the image.

    Only the part of the image under the box is warped, so the cost does not grow with the image.
    """
    affine = geometry.udp_affine(center, scale, 0.0, codec.input_size)
    image_wh = np.array(image.shape[1::-1])
    first = np.clip(np.floor(center - scale / 2) - 1, 0, image_wh - 1).astype(int)
    last = np.clip(np.ceil(center + scale / 2) + 2, first + 1, image_wh).astype(int)
    part = np.ascontiguousarray(image[first[1] : last[1], first[0] : last[0]])
    return codec.warp(part, geometry.compose(affine, geometry.translate(first)))


def to_results(
    image_id: int, category_id: int, keypoints: Array, scores: Array, totals: Array
) -> list[dict[str, Any]]:
    """COCO results of one picture: poses (N, K, 2) as x, y, keypoint score triples."""
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


def torch_network(manifest: Manifest, path: Path, device: torch.device) -> PoseModel:
    """The model with the weights of a checkpoint under our names, in eval mode."""
    model = PoseModel(manifest.model)
    state, _ = read_model(path)
    load_state(model, state, path)
    return model.to(device).eval()


class OnnxNetwork(nn.Module):
    """Normalised images (B, 3, h, w) -> heatmaps (B, K or 3 K, H, W), as pose_model.PoseModel."""

    def __init__(self, path: Path) -> None:
        """Raises PoseError if the file is absent or not an ONNX model."""
        super().__init__()
        if not path.is_file():
            raise PoseError(f"{path}: no such file; export the model again")
        try:
            self.session = onnxruntime.InferenceSession(path, providers=_providers())
        except Exception as error:  # ONNX Runtime's exceptions have no narrower common class
            reason = " ".join(str(error).split())
            raise PoseError(f"{path}: not a readable ONNX model ({reason})") from None

    def forward(self, images: Tensor) -> Tensor:
        (heatmaps,) = self.session.run([OUTPUT], {INPUT: images.cpu().numpy()})
        return torch.from_numpy(heatmaps)


def _providers() -> list[str]:
    """CUDA if this build of ONNX Runtime supports it, then the CPU."""
    preferred = ("CUDAExecutionProvider", "CPUExecutionProvider")
    return [name for name in preferred if name in onnxruntime.get_available_providers()]
