"""One ONNX graph from crops to keypoints: normalisation, network, flip test and decoding.

Formulas are those of models, evaluation and codecs, which are traced.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pose.codecs import geometry
from pose.common.errors import PoseError
from pose.deploy.export import TOLERANCE, trace, write_onnx
from pose.deploy.manifest import Manifest
from pose.deploy.predictor import OnnxNetwork
from pose.evaluation.predict import predict_maps
from pose.models.pose_model import normalise

KEYPOINTS_ONNX = "model_keypoints.onnx"
CROPS, KEYPOINTS, SCORES = "crops", "keypoints", "scores"  # names in the graph
PIXEL_TOLERANCE = 1e-3  # largest distance of a keypoint, pixels of the crop
ROUNDING = 1e-6  # heatmap values of two runtimes differ by this much at least
DRAWS = 16


class KeypointsGraph(nn.Module):
    """Crops (B, h, w, 3) uint8 RGB -> keypoints (B, K, 2) in pixels of the crop, scores (B, K)."""

    def __init__(self, network: nn.Module, manifest: Manifest, flip: bool) -> None:
        """network: normalised images -> maps. flip: average with the mirrored crop's maps."""
        super().__init__()
        self.network, self.flip = network, flip
        self.codec, self.blur = manifest.codec, manifest.blur

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        return self.decode(self.maps(crops))

    def maps(self, crops: Tensor) -> Tensor:
        """Maps (B, K or 3 K, H, W)."""
        images = normalise(crops.float().flip(3))  # BGR; TensorRT takes uint8 only into a cast
        return predict_maps(self.network, self.codec, images, self.flip)

    def decode(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Keypoints (B, K, 2) in pixels of the crop and scores (B, K), refined as in Predictor."""
        cells, scores = self.codec.decode(maps, self.blur, refine=True)
        sizes = self.codec.input_size, self.codec.heatmap_size
        return cells / cells.new_tensor(geometry.input_to_heatmap_factor(*sizes).tolist()), scores


def write_keypoints_onnx(graph: KeypointsGraph, crops: Tensor, path: Path) -> None:
    """Write the graph for any batch size; crops (B, h, w, 3) uint8 with B >= 2 is an example."""
    write_onnx(trace(graph, crops), crops, path, (CROPS,), (KEYPOINTS, SCORES))


@torch.no_grad()
def verify_keypoints(
    graph: KeypointsGraph,
    crops: Tensor,
    onnx: Path,
    heatmap_difference: float,
    tolerance: float = TOLERANCE,
) -> dict[str, float]:
    """Compare the file with the graph run by torch, on batches of 1 and B crops.

    heatmap_difference: how far ONNX Runtime's heatmaps are from torch's. Keypoints that a change of
    the maps by that much can move, as on a flat map, are not compared; their scores are. Returns
    the largest distance of keypoints in pixels and the largest difference of scores. Raises
    PoseError if one is above PIXEL_TOLERANCE or tolerance, or NaN.
    """
    session, noise = OnnxNetwork(onnx).session, max(heatmap_difference, ROUNDING)
    pairs = []
    for batch in (crops[:1], crops):
        keypoints, scores = map(torch.from_numpy, session.run(None, {CROPS: batch.numpy()}))
        pairs.append(_differences(graph, batch, keypoints, scores, noise))
    largest = dict(zip((KEYPOINTS, SCORES), torch.tensor(pairs).amax(0).tolist(), strict=True))
    limits = {KEYPOINTS: (PIXEL_TOLERANCE, " pixel"), SCORES: (tolerance, "")}
    for name, (limit, unit) in limits.items():
        if not largest[name] <= limit:
            raise PoseError(
                f"{onnx.name}: its {name} differ from torch's by {largest[name]:.1e}{unit}, more "
                f"than {limit:.0e}; nothing was written"
            )
    return largest


def _differences(
    graph: KeypointsGraph, crops: Tensor, keypoints: Tensor, scores: Tensor, noise: float
) -> tuple[float, float]:
    maps = graph.maps(crops)
    expected, expected_scores = graph.decode(maps)
    distances = (keypoints - expected).norm(dim=2)
    steady = _largest_move(graph, maps, noise) < PIXEL_TOLERANCE / 2
    largest = torch.where(steady, distances, 0.0).max()
    return float(largest), float((scores - expected_scores).abs().max())


def _largest_move(graph: KeypointsGraph, maps: Tensor, noise: float) -> Tensor:
    """(B, K) distances in pixels by which keypoints move if `noise` is added to the maps."""
    expected = graph.decode(maps)[0]
    generator = torch.Generator().manual_seed(0)
    moves = torch.zeros(expected.shape[:2])
    for _ in range(DRAWS):
        signs = torch.randint(0, 2, maps.shape, generator=generator) * 2 - 1
        moves = torch.maximum(moves, (graph.decode(maps + noise * signs)[0] - expected).norm(dim=2))
    return moves
