"""Download the starting weights and convert them to safetensors under the model's own names.

    python stages/fetch_weights.py

`weights.source: embedded` writes a randomly initialised backbone from run.seed. It needs no
download, but it is not a pretrained model. `file`, `url` and `huggingface` convert a checkpoint of
Sapiens, Sapiens2, ViTPose and ViTPose++ (their own, mmpose's, Hugging Face's), timm, MAE, or this
project. With `weights.head: keep` the head of a pose checkpoint is converted too (for keypoints
other than COCO's 17 list `keypoints.names`). Of a head for Sapiens' 308 keypoints, the maps of the
model's keypoints are read. Of a ViTPose++ file, `weights.expert` names the data set: 0 COCO, 1 AIC,
2 MPII, 3 AP-10K, 4 APT-36K, 5 COCO-WholeBody. `experiment` goes on from a model of an earlier run:
weights.revision is the name of the experiment, or a commit. Of a file with several models, such as
student and teacher, `weights.key` names the one to read. Writes data/weights/start.safetensors and
metrics/fetch_weights. Takes seconds, plus the download. A download from a URL stays in
data/resume/fetch_weights, so that a conversion for another model does not download it again.

Files on the Hugging Face Hub. Their names are from the projects' documentation; we did not download
them, and they may have moved. The log shows the weights.revision and weights.sha256 that pin the
file. Licences: Sapiens CC BY-NC 4.0, Sapiens2 its own Sapiens2 License, ViTPose++ Apache-2.0.

    weights.repo: facebook/sapiens            pretrained backbones, weights.head: fresh
    weights.file: sapiens_host/pretrain/checkpoints/
        sapiens_0.3b/sapiens_0.3b_epoch_1600_clean.pth
        sapiens_0.6b/sapiens_0.6b_epoch_1600_clean.pth
        sapiens_1b/sapiens_1b_epoch_173_clean.pth
        sapiens_2b/sapiens_2b_epoch_660_clean.pth

    weights.repo: noahcao/sapiens-pose-coco   COCO's 17 keypoints, weights.head: keep
    weights.file: sapiens_host/pose/checkpoints/
        sapiens_0.3b/sapiens_0.3b_coco_best_coco_AP_796.pth
        sapiens_0.6b/sapiens_0.6b_coco_best_coco_AP_812.pth
        sapiens_1b/sapiens_1b_coco_best_coco_AP_821.pth
        sapiens_2b/sapiens_2b_coco_best_coco_AP_822.pth

    weights.repo and weights.file of Sapiens2, model.family: sapiens2
        facebook/sapiens2-pretrain-0.1b   sapiens2_0.1b_pretrain.safetensors
        facebook/sapiens2-pretrain-0.4b   sapiens2_0.4b_pretrain.safetensors
        facebook/sapiens2-pretrain-0.8b   sapiens2_0.8b_pretrain.safetensors
        facebook/sapiens2-pretrain-1b     sapiens2_1b_pretrain.safetensors
        facebook/sapiens2-pretrain-5b     sapiens2_5b_pretrain.safetensors
        facebook/sapiens2-pose-0.4b       sapiens2_0.4b_pose.safetensors    308 keypoints
        facebook/sapiens2-pose-0.8b       sapiens2_0.8b_pose.safetensors
        facebook/sapiens2-pose-1b         sapiens2_1b_pose.safetensors
        facebook/sapiens2-pose-5b         sapiens2_5b_pose.safetensors

    weights.repo of ViTPose++, weights.file: model.safetensors, weights.expert: 0
        usyd-community/vitpose-plus-small
        usyd-community/vitpose-plus-base
        usyd-community/vitpose-plus-large
        usyd-community/vitpose-plus-huge
"""

from __future__ import annotations

from pose.common import stage

if __name__ == "__main__":
    stage.parse_arguments(__doc__)  # --help does not wait for the imports below

from pathlib import Path, PurePosixPath
from typing import Any

import torch

from pose.common.errors import PoseError
from pose.common.files import digest, existing_path
from pose.common.licence import NONE, licence_of
from pose.common.log import log
from pose.common.params import Params
from pose.common.skeleton import COCO_17, asked_names
from pose.fetch.checksums import Checksum
from pose.fetch.url import download
from pose.models.checkpoint import (
    State,
    read_base,
    read_own,
    read_provenance,
    save_weights,
    with_base,
)
from pose.models.pose_model import build_backbone, build_on_meta
from pose.models.spec import ModelSpec, model_spec
from pose.models.vit import Vit, sine_pos_embed
from pose.pretrained.convert import convert
from pose.pretrained.hub import download_from_hub
from pose.pretrained.read import index_of, shards_of
from pose.pretrained.select import read_model

NAME = "fetch_weights"
BRANCH = "main"  # of the Hub, if weights.revision is null


def main(params: Params) -> None:
    if params.weights.source == "embedded":
        state, provenance = _embedded(params)
    else:
        state, provenance = converted(params)
    save_weights(stage.WEIGHTS, state, provenance)
    numbers = {"tensors": len(state), "parameters": sum(t.numel() for t in state.values())}
    log(f"{NAME}: {numbers['parameters']:,} parameters from {provenance['source']}")
    with stage.live(NAME) as live:
        live.summary.update(numbers)


def _spec(params: Params) -> ModelSpec:
    """K is that of params: the data are not read yet, and only `weights.head: keep` needs K."""
    return model_spec(params, len(_keypoint_names(params)))


def _keypoint_names(params: Params) -> tuple[str, ...]:
    return asked_names(params.keypoints.parts, params.keypoints.names) or COCO_17.names


def _embedded(params: Params) -> tuple[State, dict[str, Any]]:
    torch.manual_seed(params.run.seed)
    backbone = build_backbone(_spec(params))
    state = backbone.state_dict()
    if isinstance(backbone, Vit):  # a short run hardly learns positions from random values
        dim = params.model.embed_dim
        if dim % 4:
            raise PoseError(
                f"params.yaml: model.embed_dim = {dim}, expected a multiple of 4 with "
                "weights.source = embedded, whose position embedding is sines and cosines"
            )
        state["pos_embed"] = sine_pos_embed(backbone.patch_embed.grid_size, dim)
    provenance = {
        "source": f"random initialisation, seed {params.run.seed}",
        "licence": NONE.name,
    }
    return {f"backbone.{name}": tensor for name, tensor in state.items()}, provenance


def converted(params: Params) -> tuple[State, dict[str, Any]]:
    """The weights of a checkpoint under the model's names, and where they are from."""
    sources = {
        "file": _file,
        "url": _url,
        "huggingface": _huggingface,
        "experiment": _experiment,
    }
    path, provenance = sources[params.weights.source](params)
    model = build_on_meta(_spec(params))
    tensors, where = read_model(path, params.weights.key)
    try:
        keep_head, expert = params.weights.head == "keep", params.weights.expert
        state, report = convert(tensors, model, keep_head, expert, _keypoint_names(params))
    except PoseError as error:
        raise PoseError(f"{path}: {error}") from None
    log(f"{NAME}: {path}: {where}\n{report}")
    licence = licence_of(provenance, params.model.family).name
    return state, {**provenance, **_digests(path), "licence": licence}


def _digests(path: Path) -> dict[str, Any]:
    """sha256 of a checkpoint, or of its index and each shard."""
    index = index_of(path)
    shards = {name: digest(index.parent / name) for name in shards_of(index)}
    return {"sha256": digest(index)} | ({"shards": shards} if shards else {})


def _file(params: Params) -> tuple[Path, dict[str, Any]]:
    path = existing_path("weights.file", str(params.weights.file))
    _require_other_file(path, str(params.weights.file))
    sha256 = params.weights.sha256
    if sha256 and (path.is_dir() or (path.is_file() and path.suffix == ".json")):
        raise PoseError(f"{path}: weights.sha256 is that of one file; set it to null for shards")
    if path.is_file():
        _require_sha256(path, sha256, "weights.file")
    return path, {"source": path.name}


def _require_sha256(path: Path, sha256: str | None, key: str) -> None:
    checksum = Checksum(sha256, "weights.sha256") if sha256 else None
    if checksum and (mismatch := checksum.mismatch(path)):
        raise PoseError(f"{path}: {mismatch}; correct {key} or weights.sha256")


def _require_other_file(path: Path, given: str) -> None:
    """Raise PoseError if the chain writes this file: the run would replace its own source."""
    for name, entry in stage.definitions(stage.ROOT).items():
        for out in entry.get("outs", []):
            written = Path(next(iter(out)) if isinstance(out, dict) else out).resolve()
            if written in (path.resolve(), *path.resolve().parents):
                raise PoseError(
                    f"params.yaml: weights.file = {given!r}: the stage {name} writes this file, so "
                    "the run would replace its own source; set weights.source: experiment and "
                    "weights.revision to the experiment or commit that wrote it"
                )


def _experiment(params: Params) -> tuple[Path, dict[str, Any]]:
    """A model of an earlier run, with the source and licence that it has inside."""
    from pose.pretrained.experiment import FINAL_MODEL, copy_from_run  # DVC takes a second

    weights = params.weights
    file, revision = weights.file or FINAL_MODEL, str(weights.revision)
    path, commit = copy_from_run(file, revision, stage.RESUME / NAME)
    _require_sha256(path, weights.sha256, "weights.revision")
    start = read_provenance(path)
    if base := read_base(path):  # the file has only what was trained
        base_path, _ = copy_from_run(base.file, revision, stage.RESUME / NAME)
        path = _merged(path, base_path)
    if weights.revision != commit:
        log(f"{NAME}: to pin this run: weights.revision={commit}")
    provenance = {"source": f"{file} of {revision}", "revision": commit}
    return path, provenance | {f"start {key}": value for key, value in start.items()}


def _merged(path: Path, base_path: Path) -> Path:
    """A file with all weights, beside a model file that has only what was trained."""
    merged = path.with_stem(f"{path.stem}_merged")
    save_weights(merged, with_base(path, read_own(path), base_path), read_provenance(path))
    return merged


def _url(params: Params) -> tuple[Path, dict[str, Any]]:
    checksum = Checksum(str(params.weights.sha256), "weights.sha256")
    path = download(str(params.weights.url), stage.RESUME / NAME, checksum)
    return path, {"source": params.weights.url}


def _huggingface(params: Params) -> tuple[Path, dict[str, Any]]:
    """A file of the Hub; for an index, its shards too, which the commit pins."""
    weights = params.weights
    repo, file = str(weights.repo), str(weights.file)
    path, commit = download_from_hub(repo, file, weights.revision or BRANCH, weights.sha256)
    if weights.revision != commit or not weights.sha256:
        log(f"{NAME}: to pin this file: weights.revision={commit} weights.sha256={digest(path)}")
    for name in shards_of(path) if path.suffix == ".json" else ():
        download_from_hub(repo, str(PurePosixPath(file).with_name(name)), commit, None)
    return path, {"source": f"{repo}/{file}", "revision": commit}


if __name__ == "__main__":
    stage.run(NAME, main)
