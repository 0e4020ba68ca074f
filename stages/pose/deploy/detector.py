"""Boxes of persons by one of torchvision's detectors, its weights fetched once and verified."""

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
from pose.models.checkpoint import read_weights, require_same

# torchvision's names, with the box AP on COCO val2017 and the megabytes that it tells of them
DETECTORS = {
    "fasterrcnn_mobilenet_v3_large_fpn": "AP 32.8, 74 MB",
    "fasterrcnn_resnet50_fpn_v2": "AP 46.7, 167 MB, 60 times the arithmetic",
    "ssdlite320_mobilenet_v3_large": "AP 21.3, 13 MB, the fastest",
}
PERSON = 1  # label of torchvision's detection models, which are trained on COCO


@dataclass(frozen=True)
class PrefixChecksum(Checksum):
    """The first hex digits of a sha256, which torch hub puts into the file name of its URLs."""

    def mismatch(self, path: Path) -> str | None:
        actual = digest(path, self.algorithm)
        if actual.startswith(self.digest):
            return None
        return f"{self.algorithm} is {actual}, {self.source} says {self.digest}..."


def weights_url(name: str) -> str:
    """Where torchvision keeps the best weights of a detector."""
    url: str = get_model_weights(name).DEFAULT.url
    return url


def weights_path(url: str) -> Path:
    """Where they belong on this machine: torch hub's own folder, which TORCH_HOME moves."""
    return Path(torch.hub.get_dir()) / "checkpoints" / file_name(url)


def fetch_weights(url: str) -> Path:
    """Path of the verified file, fetched unless it is there. Raises PoseError."""
    prefix = re.search(r"-([0-9a-f]{8,})\.[a-z]+$", url)
    if not prefix:
        raise PoseError(f"{url}: tells no digest; such weights are not taken")
    checksum = PrefixChecksum(prefix[1], "the file's own name")
    return download(url, weights_path(url).parent, checksum)


class Detector:
    """image (H, W, 3) RGB uint8 -> boxes and scores of persons, the best first."""

    def __init__(self, name: str, url: str, min_score: float, device: torch.device) -> None:
        """Raises PoseError if the weights cannot be had or are another model's."""
        self.network = get_model(name, weights=None, weights_backbone=None)
        self.min_score, self.device = min_score, device
        path = fetch_weights(url)
        state = read_weights(path)
        try:
            require_same(self.network.state_dict(), state)
        except PoseError as error:
            raise PoseError(f"{path}: {error}") from None
        self.network.load_state_dict(state)
        self.network.to(device).eval()

    @torch.no_grad()
    def __call__(self, image: Image) -> Boxes:
        pixels = torch.tensor(image, device=self.device).permute(2, 0, 1).float() / 255
        found = self.network([pixels])[0]
        kept = (found["labels"] == PERSON) & (found["scores"] >= self.min_score)
        corners = found["boxes"][kept].double().cpu().numpy()  # (N, 4: x1, y1, x2, y2)
        corners[:, 2:] -= corners[:, :2]
        return corners, found["scores"][kept].double().cpu().numpy()
