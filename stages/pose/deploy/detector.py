"""Person boxes from a torchvision detector, whose weights are downloaded once and verified."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision.models import get_model, get_model_weights

from pose.common.errors import PoseError
from pose.common.files import digest
from pose.deploy.boxes import Boxes, Image
from pose.fetch.checksums import Checksum
from pose.fetch.url import download, file_name
from pose.models.checkpoint import load_state
from pose.pretrained.read import read_checkpoint

PERSON_LABEL = 1  # in torchvision's detection models, which are trained on COCO


@dataclass(frozen=True)
class PrefixChecksum(Checksum):
    """First hex digits of a sha256, which torch.hub puts into the file names of its URLs."""

    def mismatch(self, path: Path) -> str | None:
        actual = digest(path, self.algorithm)
        if actual.startswith(self.digest):
            return None
        return f"{self.algorithm} is {actual}, {self.source} says {self.digest}..."


def weights_url(name: str) -> str:
    """URL of torchvision's default weights of a detector."""
    url: str = get_model_weights(name).DEFAULT.url
    return url


def weights_path(url: str) -> Path:
    """Local path of the weights: the cache folder of torch.hub, which TORCH_HOME sets."""
    return Path(torch.hub.get_dir()) / "checkpoints" / file_name(url)


def fetch_weights(url: str) -> Path:
    """Download the weights unless they are cached; returns the path of the verified file.

    Raises PoseError if the file name holds no digest, or the download or its checksum fails.
    """
    prefix = re.search(r"-([0-9a-f]{8,})\.[a-z]+$", url)
    if not prefix:
        raise PoseError(f"{url}: the file name holds no sha256 digest; cannot verify the weights")
    checksum = PrefixChecksum(prefix[1], "the file name")
    return download(url, weights_path(url).parent, checksum)


class Detector:
    """Person detector: image (H, W, 3) RGB uint8 -> boxes xywh (N, 4) and scores (N,), best first.

    Boxes are in image pixels; those with scores below min_score are dropped.
    """

    def __init__(self, name: str, url: str, min_score: float, device: torch.device) -> None:
        """Raises PoseError if the weights cannot be downloaded or belong to another model."""
        self.network = get_model(name, weights=None, weights_backbone=None)
        self.min_score, self.device = min_score, device
        path = fetch_weights(url)
        load_state(self.network, read_checkpoint(path).get("", {}), path)
        self.network.to(device).eval()

    @torch.no_grad()
    def __call__(self, image: Image) -> Boxes:
        pixels = torch.tensor(image, device=self.device).permute(2, 0, 1).float() / 255
        detections = self.network([pixels])[0]
        selected = (detections["labels"] == PERSON_LABEL) & (detections["scores"] >= self.min_score)
        corners = detections["boxes"][selected].double().cpu().numpy()  # (N, 4: x1, y1, x2, y2)
        corners[:, 2:] -= corners[:, :2]
        return corners, detections["scores"][selected].double().cpu().numpy()
