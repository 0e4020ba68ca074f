"""params.yaml as typed, frozen sections; a stage sees only the keys that dvc.yaml declares for it.

Read with ruamel.yaml (YAML 1.2): PyYAML reads the `1e-05` that `dvc exp run -S train.lr=1e-5`
writes as a string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pose.common.errors import PoseError, printable
from pose.common.whole_body import ALL_PARTS

Count = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Quality = Annotated[int, Field(ge=1, le=100)]
Url = Annotated[str, Field(pattern="^https?://")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
SizeWH = tuple[Count, Count]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Names = tuple[str, ...]
RESERVED_SETS = ("main", "train", "val", "in_crop", "unlabelled", "detections")


def _not_reserved(name: str) -> str:
    if name in RESERVED_SETS:
        raise PydanticCustomError("reserved", f"a name other than {', '.join(RESERVED_SETS)}")
    return name


SetName = Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,30}$"), AfterValidator(_not_reserved)]
TTAS = ("none", "flip", "multiscale")  # test-time views, see evaluation/predict.py
PathName = Literal["jc", "jo", "co", "cm", "mu", "randaugment", "joco", "jccm"]
MAX_BYTES, MAX_VALUES = 1 << 20, 10_000  # of params.yaml
MAX_SHOWN = 300  # characters of a value in a message
LORA_TARGETS = {  # linear layers of a block by model.family
    "vit": ("qkv", "proj", "fc1", "fc2"),
    "sapiens2": ("wq", "wk", "wv", "proj", "w12", "w3"),
}
UNIONS = ("category", "ablation")  # keys whose value is text or a list
YAML_ERRORS = (ValueError, TypeError, LookupError, AttributeError, RecursionError)  # of ruamel


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    if list(values) != sorted(values):
        raise PydanticCustomError("order", "ascending numbers")
    return values


Ascending = AfterValidator(_ascending)
Range = Annotated[tuple[NonNegative, NonNegative], Ascending]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Run(Section):
    seed: Seed
    threads: Count


class FurtherSet(Section):
    """What data.also and data.also_val say about one set; paths are relative to its root.

    map: names of the set's keypoints -> names of the model's; None: equal names. names: of the
    set's keypoints, for a file without them.
    """

    name: SetName
    root: str
    category: str | Annotated[Names, Field(min_length=1)] = "person"
    names: Names | None = None
    map: Annotated[dict[str, str], Field(min_length=1)] | None = None
    area: Literal["annotated", "box"] = "annotated"
    visibility_thr: Positive | None = None
    on_bad_record: Literal["stop", "skip"] = "stop"

    @model_validator(mode="after")
    def _map_is_one_to_one(self) -> FurtherSet:
        taken: dict[str, str] = {}
        for theirs, ours in (self.map or {}).items():
            if ours in taken:
                raise ValueError(
                    f"map: {taken[ours]!r} and {theirs!r} are both mapped to {ours!r}; remove one"
                )
            taken[ours] = theirs
        return self


class FurtherTrain(FurtherSet):
    """An entry of data.also. weight: how often an epoch has each person; None: once."""

    train_split: str = "train"
    train_annotations: str | None = None
    train_images: str | None = None
    weight: Annotated[float, Field(gt=0, le=100)] | None = None


class FurtherVal(FurtherSet):
    """An entry of data.also_val."""

    val_split: str = "val"
    val_annotations: str | None = None
    val_images: str | None = None


class Data(Section):
    source: Literal["synthetic", "local", "coco"]
    root: str
    base_url: Url
    train_split: str
    val_split: str
    train_annotations: str | None
    val_annotations: str | None
    train_images: str | None
    val_images: str | None
    val_fraction: Annotated[float, Field(gt=0, lt=1)] | None
    group_by: str | None
    category: str | Annotated[Names, Field(min_length=1)]
    area: Literal["annotated", "box"]
    visibility_thr: Positive | None
    orientation: Literal["ignore", "apply"]
    bit_depth: Annotated[int, Field(ge=8, le=16)] | None
    detections: str | None
    detections_sha256: Sha256 | None
    labelled_persons: Count | None
    labelled_fraction: Annotated[float, Field(gt=0, le=1)] | None
    unlabelled: tuple[Literal["boxes", "rest"], ...]
    unlabelled_images: bool
    unlabelled_detections: str | None
    unlabelled_score_thr: Probability
    on_bad_record: Literal["stop", "skip"]
    jpeg_quality: Quality
    shard_persons: Count
    also: tuple[FurtherTrain, ...] | None
    also_val: tuple[FurtherVal, ...] | None

    @model_validator(mode="after")
    def _set_names_differ(self) -> Data:
        for key, sets in (("also", self.also or ()), ("also_val", self.also_val or ())):
            taken = {self.train_split, self.val_split}
            for place, entry in enumerate(sets):
                if entry.name in taken:
                    raise ValueError(
                        f"{key}.{place}.name = {entry.name!r} is also the name of another set or "
                        "split; choose another"
                    )
                taken.add(entry.name)
        return self

    @model_validator(mode="after")
    def _split_is_one(self) -> Data:
        if self.labelled_persons is not None and self.labelled_fraction is not None:
            raise ValueError("labelled_persons and labelled_fraction are both given; null one")
        if self.unlabelled_images and not self.unlabelled_detections:
            raise ValueError("unlabelled_detections must be a file for unlabelled_images")
        return self

    @model_validator(mode="after")
    def _files_are_local(self) -> Data:
        keys = ("train_annotations", "val_annotations", "train_images", "val_images")
        for key in (*keys, "val_fraction"):
            if self.source != "local" and getattr(self, key) is not None:
                raise ValueError(f"{key} is for source: local, not {self.source}; null it")
        return self

    @model_validator(mode="after")
    def _val_is_one(self) -> Data:
        for key in ("val_annotations", "val_images"):
            if self.val_fraction is not None and getattr(self, key) is not None:
                raise ValueError(f"val_fraction and {key} are both given; null one")
        if self.group_by is not None and self.val_fraction is None:
            raise ValueError(f"group_by = {self.group_by!r} is for val_fraction, which is null")
        try:
            re.compile(self.group_by or "")
        except re.error as error:
            raise ValueError(
                f"group_by = {self.group_by!r} is not a regular expression: {error}"
            ) from None
        return self

    @model_validator(mode="after")
    def _fetched_boxes_are_pinned(self) -> Data:
        fetched = (self.detections or "").startswith(("http://", "https://"))
        if fetched and not self.detections_sha256:
            raise ValueError("detections_sha256 must be given when detections is a URL")
        return self


class Keypoints(Section):
    parts: tuple[Literal["body", "foot", "face", "lefthand", "righthand"], ...] | None
    names: Names | None
    flip_pairs: tuple[tuple[str, str], ...] | None
    upper_body: Names | None
    lower_body: Names | None
    skeleton: tuple[tuple[str, str], ...] | None
    oks_sigmas: tuple[Positive, ...] | None

    @model_validator(mode="after")
    def _parts_are_ordered(self) -> Keypoints:
        if self.parts is None:
            return self
        ordered = tuple(part for part in ALL_PARTS if part in self.parts)
        if self.parts != ordered or self.parts[:1] != ALL_PARTS[:1] or len(ordered) == 1:
            raise ValueError(
                f"parts = {list(self.parts)}, expected body and others of "
                f"{', '.join(ALL_PARTS[1:])} in this order, or null for the body alone"
            )
        if ("lefthand" in ordered) != ("righthand" in ordered):
            raise ValueError(
                f"parts = {list(self.parts)}, expected both hands or none: a mirrored left hand is "
                "a right one"
            )
        if self.names is not None:
            raise ValueError("parts and names are both given; null one: parts have names")
        return self

    @model_validator(mode="after")
    def _groups_are_two(self) -> Keypoints:
        if (self.upper_body is None) != (self.lower_body is None):
            raise ValueError("upper_body and lower_body must both be given, or both null")
        return self


class Synthetic(Section):
    seed: Seed
    train_images: Count
    val_images: Count
    unlabelled_fraction: Probability
    image_size: SizeWH
    jpeg_quality: Quality


class Weights(Section):
    source: Literal["embedded", "file", "url", "huggingface", "experiment"]
    file: str | None
    repo: str | None
    revision: str | None
    url: Url | None
    sha256: Sha256 | None
    key: str | None
    expert: Annotated[int, Field(ge=0, le=5)] | None
    head: Literal["fresh", "keep"]

    @model_validator(mode="after")
    def _source_is_complete(self) -> Weights:
        needs = {"file": ["file"], "url": ["url", "sha256"]}
        needs |= {"huggingface": ["repo", "file"], "experiment": ["revision"]}
        for key in needs.get(self.source, []):
            if not getattr(self, key):
                raise ValueError(f"{key} must be given when source is {self.source}")
        if self.source == "embedded" and self.head == "keep":
            raise ValueError("head = 'keep', but the embedded backbone has no head; use fresh")
        return self


class Codec(Section):
    type: Literal["gaussian", "combined"]
    input_size: SizeWH
    heatmap_size: SizeWH
    sigma: Positive
    radius_factor: Positive
    blur_kernel_size: Annotated[int, Field(gt=0)]
    blur_border: Literal["zero", "mirror"]
    interpolation: Literal["linear", "cubic"]
    outside: Literal["window", "ignore"]
    occluded_weight: Probability

    @property
    def maps_per_keypoint(self) -> int:
        """Output channels per keypoint."""
        return 3 if self.type == "combined" else 1

    @model_validator(mode="after")
    def _kernel_is_odd(self) -> Codec:
        if self.blur_kernel_size % 2 == 0:
            raise ValueError(f"blur_kernel_size must be odd, got {self.blur_kernel_size}")
        return self

    @model_validator(mode="after")
    def _occluded_is_labelled_or_not(self) -> Codec:
        if 0 < self.occluded_weight < 0.5:
            raise ValueError(
                f"occluded_weight = {self.occluded_weight:g}, expected 0 or 0.5..1: below 0.5 a "
                "keypoint counts as unlabelled, as in the official codec"
            )
        return self


class Model(Section):
    family: Literal["vit", "sapiens2"]
    patch_size: Count
    patch_padding: Natural
    embed_dim: Count
    depth: Count
    num_heads: Count
    mlp_dim: Count | None
    rope_dtype: Literal["bf16", "fp32"]
    drop_path: BelowOne
    head: Literal["sapiens", "classic", "simple"]
    deconv_channels: tuple[Count, ...]
    conv_channels: tuple[Count, ...]
    grad_checkpointing: bool
    frozen_dtype: Literal["float32", "bf16"]

    @model_validator(mode="after")
    def _parts_fit(self) -> Model:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} must divide embed_dim {self.embed_dim}")
        self._check_sapiens2()
        if self.head == "simple" and (self.deconv_channels or self.conv_channels):
            raise ValueError("deconv_channels and conv_channels must be [] for head simple")
        return self

    def _check_sapiens2(self) -> None:
        """Raise ValueError for sizes that this backbone cannot have."""
        if self.family != "sapiens2":
            return
        head_dim = self.embed_dim // self.num_heads
        if head_dim % 4:
            raise ValueError(
                f"num_heads = {self.num_heads} makes heads of {head_dim} channels; the rotary "
                "embedding of family sapiens2 needs a multiple of 4"
            )
        if self.depth > 16 and self.num_heads % 2:
            raise ValueError(
                f"num_heads = {self.num_heads}, expected an even number: the middle blocks of "
                f"family sapiens2 (depth {self.depth}) have half as many key heads"
            )
        if self.drop_path:
            raise ValueError(f"drop_path = {self.drop_path}: family sapiens2 has none; set it to 0")

    @property
    def head_growth(self) -> int:
        """Heatmap cells per token along each side: 2 per deconvolution, 4 for the simple head."""
        return 4 if self.head == "simple" else 2 ** len(self.deconv_channels)

    def grid_wh(self, input_wh: tuple[int, int]) -> tuple[int, int]:
        """Number of tokens (w, h) of an input, by the output size of a strided convolution."""
        w, h = ((n + 2 * self.patch_padding - self.patch_size) // self.patch_size for n in input_wh)
        return w + 1, h + 1


class Augment(Section):
    bbox_padding: Positive
    flip_prob: Probability
    half_body_prob: Probability
    half_body_padding: Positive
    half_body_min_keypoints: Count
    shift_factor: NonNegative
    shift_prob: Probability
    scale_factor: BelowOne
    rotate_deg: Annotated[float, Field(ge=0, le=180)]
    rotate_prob: Probability
    photometric_prob: Probability
    brightness_delta: Annotated[int, Field(ge=0, le=255)]
    contrast_range: Range
    saturation_range: Range
    hue_delta: Annotated[int, Field(ge=0, le=90)]
    channel_swap_prob: Probability
    blur_prob: Probability
    median_blur_prob: Probability
    dropout_prob: Probability
    dropout_size: Annotated[tuple[Probability, Probability], Ascending]
    min_keypoints: Natural
    official_quirks: bool


class Train(Section):
    finetune: Literal["full", "lora", "head"]
    optimizer: Literal["adamw", "adamw8bit"]
    lr: Positive
    weight_decay: NonNegative
    betas: tuple[BelowOne, BelowOne]
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    batch_size: Count
    clip_grad_norm: Positive
    loss_weight: Positive
    warmup_iters: Natural
    warmup_epochs: NonNegative
    schedule: Literal["cosine", "multistep", "linear"]
    min_lr: NonNegative
    milestones: Annotated[tuple[Count, ...], Ascending]
    gamma: Positive
    lr_scaling: Literal["none", "linear", "sqrt"]
    lr_base_batch: Count
    accumulate: Count
    amp: Literal["none", "bf16", "fp16"]
    tf32: bool
    compile: bool
    parallel: Literal["ddp", "fsdp"]
    log_steps: Count
    checkpoint_steps: Count
    on_bad_step: Literal["stop", "skip"]
    max_skipped: Count
    ema_decay: BelowOne
    val_epochs: Natural
    val_persons: Count
    picture_epochs: Natural
    keep: Literal["last", "best"]

    @property
    def lr_factor(self) -> float:
        """Factor of every peak learning rate, from lr_scaling."""
        ratio = self.batch_size / self.lr_base_batch
        factors: dict[str, float] = {"none": 1.0, "linear": ratio, "sqrt": ratio**0.5}
        return factors[self.lr_scaling]

    @model_validator(mode="after")
    def _lr_falls(self) -> Train:
        peak = self.lr * self.lr_factor
        if self.schedule == "cosine" and self.min_lr > peak:
            raise ValueError(f"min_lr = {self.min_lr}, expected at most train.lr = {peak:.3g}")
        return self

    @model_validator(mode="after")
    def _batch_splits(self) -> Train:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate = {self.accumulate}, expected a divisor of train.batch_size = "
                f"{self.batch_size}"
            )
        return self

    @model_validator(mode="after")
    def _optimizer_can(self) -> Train:
        for key, value in (("parallel", "fsdp"), ("on_bad_step", "skip")):
            if self.optimizer == "adamw8bit" and getattr(self, key) == value:
                raise ValueError(
                    f"optimizer = 'adamw8bit' cannot be used with {key} = '{value}'; use adamw, or "
                    f"{key}: {'ddp' if value == 'fsdp' else 'stop'}"
                )
        return self

    @model_validator(mode="after")
    def _best_is_known(self) -> Train:
        if self.keep == "best" and not self.val_epochs:
            raise ValueError("keep = 'best', but val_epochs = 0 measures no AP; set val_epochs: 1")
        return self


class Lora(Section):
    rank: Count
    alpha: Positive
    dropout: BelowOne
    targets: Annotated[Names, Field(min_length=1)] | None
    dora: bool
    norms: bool
    pos_embed: bool


class Phase(Section):
    epochs: Natural


class Ssl(Section):
    epochs: Natural
    batch_size: Count
    lr: Positive
    unlabelled_weight: NonNegative
    ramp_fraction: Probability
    rotate_deg: Annotated[float, Field(ge=0, le=180)]
    scale_factor: BelowOne
    affine_prob: Probability
    joint_cutout: Natural
    joint_occlude: Natural
    occlude_jitter: NonNegative
    cutout: Natural
    cutmix: Natural
    randaugment_ops: Natural
    randaugment_magnitude: Annotated[int, Field(ge=0, le=30)]
    min_peak: Probability
    loss: Literal["multiaugs", "ensemble"]
    paths: Annotated[tuple[PathName, ...], Field(min_length=1)]
    teacher_weight: Probability
    temperature: Annotated[float, Field(gt=0, le=1)]
    confidence_thr: Probability
    kl_weight: NonNegative
    kl_temperature: Positive
    networks: Annotated[int, Field(ge=1, le=2)]
    ema_decay: BelowOne
    pictures: Count


class Evaluate(Section):
    models: Annotated[tuple[Literal["phase1", "phase2", "ssl"], ...], Field(min_length=1)]
    ablation: str | tuple[str, ...]
    scales: Annotated[tuple[Positive, ...], Ascending]
    ensemble: Names
    batch_size: Count
    flip_test: bool
    keypoint_score_thr: Probability
    oks_nms_thr: Probability
    nms_area: Literal["box", "keypoints"]
    pck_thr: Positive

    @property
    def headline_tta(self) -> str:
        """Test-time views of the headline."""
        return "flip" if self.flip_test else "none"

    @property
    def ttas(self) -> Names:
        """Test-time views that each model is asked for, the headline's always among them."""
        asked = {"none", "flip"} if self.ablation == "full" else {*self.ablation}
        if self.ablation == "full" and len(self.scales) > 1:
            asked.add("multiscale")
        return tuple(tta for tta in TTAS if tta in asked | {self.headline_tta})

    @property
    def asked_models(self) -> Names:
        """Models that are evaluated, the headline's last."""
        return self.models[-1:] if self.ablation == "headline" else self.models

    @model_validator(mode="after")
    def _models_differ(self) -> Evaluate:
        if len({*self.models}) < len(self.models):
            raise ValueError(f"models = {list(self.models)}, expected each name once")
        return self

    @model_validator(mode="after")
    def _ablation_is_known(self) -> Evaluate:
        listed = not isinstance(self.ablation, str) and {*self.ablation} <= {*TTAS}
        if self.ablation not in ("full", "headline") and not listed:
            found = self.ablation if isinstance(self.ablation, str) else list(self.ablation)
            raise ValueError(
                f"ablation = {found!r}, expected full, headline or a list of {', '.join(TTAS)}"
            )
        return self

    @model_validator(mode="after")
    def _scales_hold_one(self) -> Evaluate:
        if 1.0 not in self.scales or len({*self.scales}) < len(self.scales):
            raise ValueError(f"scales = {list(self.scales)}, expected 1.0 and others, each once")
        if "multiscale" in self.ttas and len(self.scales) == 1:
            raise ValueError("scales = [1.0], expected more of them for multiscale in ablation")
        return self

    @model_validator(mode="after")
    def _ensemble_has_members(self) -> Evaluate:
        if len(self.ensemble) == 1:
            raise ValueError(f"ensemble = {list(self.ensemble)}, expected none or at least two")
        return self


class Report(Section):
    examples: Count
    heatmaps: Natural


class Review(Section):
    max_ap_drop: Probability | None
    ap_tolerance: Probability


class Params(Section):
    """All of params.yaml. A stage gets a copy with only the keys that it declares in dvc.yaml."""

    run: Run
    data: Data
    keypoints: Keypoints
    synthetic: Synthetic
    weights: Weights
    codec: Codec
    model: Model
    augment: Augment
    train: Train
    lora: Lora
    phase1: Phase
    phase2: Phase
    ssl: Ssl
    evaluate: Evaluate
    report: Report
    review: Review

    @model_validator(mode="after")
    def _ensemble_needs_gaussians(self) -> Params:
        if self.ssl.loss == "ensemble" and self.codec.type != "gaussian":
            raise ValueError(
                f"ssl.loss = 'ensemble', expected multiaugs for codec.type = '{self.codec.type}': "
                "its sharpening keeps the width of gaussians"
            )
        return self

    @model_validator(mode="after")
    def _bf16_is_served(self) -> Params:
        if self.model.frozen_dtype == "bf16":
            if self.train.amp == "none":
                raise ValueError(
                    "model.frozen_dtype = 'bf16', but train.amp = 'none' computes in float32; set "
                    "train.amp: bf16, or model.frozen_dtype: float32"
                )
            if self.train.parallel == "fsdp":
                raise ValueError(
                    "model.frozen_dtype = 'bf16' cannot be used with train.parallel = 'fsdp', "
                    "which shards weights of one type; use ddp, or model.frozen_dtype: float32"
                )
        return self

    @model_validator(mode="after")
    def _adapters_fit(self) -> Params:
        family, lora = self.model.family, self.lora
        if self.train.finetune != "lora":
            return self
        if unknown := {*(lora.targets or ())} - {*LORA_TARGETS[family]}:
            raise ValueError(
                f"lora.targets has {min(unknown)!r}, expected some of "
                f"{', '.join(LORA_TARGETS[family])} for model.family = '{family}'"
            )
        if lora.pos_embed and family == "sapiens2":
            raise ValueError("lora.pos_embed = true: family sapiens2 has none; set it to false")
        return self

    @model_validator(mode="after")
    def _ssl_lr_falls(self) -> Params:
        peak = self.ssl.lr * self.train.lr_factor
        if self.ssl.epochs and self.train.schedule == "cosine" and self.train.min_lr > peak:
            raise ValueError(
                f"ssl.lr = {self.ssl.lr:g}, expected at least train.min_lr = {self.train.min_lr:g}"
            )
        return self

    @model_validator(mode="after")
    def _heatmap_fits_model(self) -> Params:
        growth = self.model.head_growth
        w, h = self.model.grid_wh(self.codec.input_size)
        patch = self.model.patch_size
        if (w, h) != tuple(side // patch for side in self.codec.input_size):
            raise ValueError(
                f"codec.input_size = {list(self.codec.input_size)}, expected multiples of "
                f"model.patch_size = {patch} for model.patch_padding = {self.model.patch_padding}"
            )
        if self.codec.heatmap_size != (w * growth, h * growth):
            raise ValueError(
                f"codec.heatmap_size = {list(self.codec.heatmap_size)}, but a grid of {w} x {h} "
                f"tokens grown {growth} times by model.head make "
                f"[{w * growth}, {h * growth}]"
            )
        return self


def load_params(path: Path, declared: list[str] | None = None) -> Params:
    """Validated params.yaml; with `declared` (dvc.yaml's list) only those sections and keys.

    Raises PoseError that names key, value and expectation, one line per error. Reading a key that
    is not declared raises AttributeError: a run cannot depend on a value that DVC does not track.
    """
    params = _validate(_read_yaml(path), path.name)
    return params if declared is None else _restrict(params, declared)


def _read_yaml(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PoseError(f"{path.name}: more than {MAX_BYTES:,} bytes; is it the right file?")
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PoseError(
            f"{path.name}: no such file; `git checkout {path.name}` restores it"
        ) from None
    except OSError as error:
        raise PoseError(f"{path.name}: cannot be read: {error.strerror}") from None
    except (YAMLError, *YAML_ERRORS) as error:
        reason = _shortened(printable(" ".join(str(error).split())))
        raise PoseError(f"{path.name}: not valid YAML: {reason}") from None


def _validate(raw: Any, name: str) -> Params:
    if not isinstance(raw, dict):
        raise PoseError(f"{name}: expected sections with keys, found {type(raw).__name__}")
    _require_plain(raw, name)
    try:
        return Params.model_validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        lines = (_line(name, item) for item in _unions_once(error.errors()))
        raise PoseError("\n".join(lines)) from None


def _unions_once(errors: Sequence[Any]) -> list[Any]:
    """The errors, but those of a key of UNIONS as one: pydantic has one for each of its types."""
    found: dict[tuple[str | int, ...], Any] = {}
    for item in errors:
        loc = item["loc"]
        length = next((k + 1 for k, part in enumerate(loc[:-1]) if part in UNIONS), len(loc))
        if length < len(loc):
            item = {**item, "loc": loc[:length], "type": "union", "msg": "text or a list of names"}
        found.setdefault(item["loc"], item)  # the first has the whole value
    return list(found.values())


def _line(name: str, item: Any) -> str:
    """`params.yaml: train.batch_size = 0, expected: input should be greater than 0`."""
    key = _shortened(printable(".".join(str(part) for part in item["loc"])))
    if item["type"] == "missing":
        return f"{name}: {key} is missing; add it (`git diff {name}` shows what was there)"
    if item["type"] == "extra_forbidden":
        return f"{name}: {key} = {_shown(item['input'])} is not a known key; check its spelling"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "json_invalid":  # of our JSON: too deep, lone surrogate
        return f"{name}: {message}"
    if item["type"] == "value_error":
        return f"{name}: {key + '.' if key else ''}{message}"
    return f"{name}: {key} = {_shown(item['input'])}, expected: {message.lower()}"


def _require_plain(raw: Any, name: str) -> None:
    """Raise PoseError for too many values, as YAML aliases can make, and for keys not of text."""
    waiting, count = [raw], 0
    while waiting:
        value, count = waiting.pop(), count + 1
        if count > MAX_VALUES:
            raise PoseError(f"{name}: more than {MAX_VALUES:,} values; write it without aliases")
        if isinstance(value, dict):
            if others := [key for key in value if not isinstance(key, str)]:
                raise PoseError(f"{name}: the key {_shown(others[0])} is not text; correct it")
            waiting += value.values()
        elif isinstance(value, list | tuple | set):
            waiting += value


def _shown(value: Any) -> str:
    """The value as JSON, shortened to MAX_SHOWN characters."""
    return _shortened(json.dumps(value, default=str) if _is_json(value) else repr(value))


def _is_json(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | list | dict)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _restrict(params: Params, declared: list[str]) -> Params:
    values_by_section: dict[str, dict[str, Any]] = {}
    for entry in declared:
        section, _, key = entry.partition(".")
        values = dict(getattr(params, section))
        values_by_section.setdefault(section, {}).update({key: values[key]} if key else values)
    parts = {s: type(getattr(params, s)).model_construct(**v) for s, v in values_by_section.items()}
    return Params.model_construct(**parts)
