"""params.yaml is checked before any work, and a stage sees only what it declares."""

from __future__ import annotations

import re
from itertools import zip_longest
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from pose.common.errors import PoseError
from pose.common.params import Params, load_params

SIZES = {
    "codec.input_size": "[72, 96]",
    "model.patch_size": "8",
    "model.patch_padding": "2",
    "model.deconv_channels": "[64, 32]",
}

BAD = [
    ("train.lr", None, "train.lr is missing; add it (`git diff params.yaml` shows what was there)"),
    ("train.lrr", "1", "train.lrr = 1 is not a known key; check its spelling"),
    ("train.batch_size", "0", "train.batch_size = 0, expected: input should be greater than 0"),
    ("train.batch_size", "-3", "train.batch_size = -3, expected: input should be greater than 0"),
    (
        "train.batch_size",
        "true",
        "train.batch_size = true, expected: input should be a valid integer",
    ),
    (
        "train.batch_size",
        "2.5",
        "train.batch_size = 2.5, expected: input should be a valid integer",
    ),
    ("train.batch_size", '"2"', 'train.batch_size = "2", expected: input should be a valid int'),
    ("train.lr", '"1e-3"', 'train.lr = "1e-3", expected: input should be a valid number'),
    ("train.lr", ".nan", "train.lr = NaN, expected: input should be a finite number"),
    ("train.lr", ".inf", "train.lr = Infinity, expected: input should be a finite number"),
    ("train.lr", "null", "train.lr = null, expected: input should be a valid number"),
    ("train.betas", "[0.9, 2]", "train.betas.1 = 2, expected: input should be less than 1"),
    ("augment.contrast_range", "[1.5, 0.5]", "augment.contrast_range = [1.5, 0.5], expected: asc"),
    ("augment.dropout_size", "[0.4, 0.2]", "augment.dropout_size = [0.4, 0.2], expected: ascend"),
    ("train.milestones", "[200, 170]", "train.milestones = [200, 170], expected: ascending"),
    ("train.min_lr", "1.0", "train.min_lr = 1.0, expected at most train.lr = 0.003"),
    ("data.unlabelled_images", "true", "data.unlabelled_detections must be a file for unlabelled_"),
    ("data.unlabelled", "[crowds]", 'data.unlabelled.0 = "crowds", expected: input should be'),
    ("data.labelled_fraction", "0", "data.labelled_fraction = 0, expected: input should be greate"),
    ("train.accumulate", "3", "train.accumulate = 3, expected a divisor of train.batch_size = 8"),
    ("train.parallel", "dp", "train.parallel = \"dp\", expected: input should be 'ddp' or 'fsdp'"),
    ("weights.head", "keep", "weights.head = 'keep', but the embedded backbone has no head"),
    ("train.amp", "fp8", "train.amp = \"fp8\", expected: input should be 'none', 'bf16' or 'fp16'"),
    ("augment.scale_factor", "1.0", "augment.scale_factor = 1.0, expected: input should be less"),
    ("evaluate.flip_test", "yes", 'evaluate.flip_test = "yes", expected: input should be a valid'),
    ("evaluate.flip_test", "1", "evaluate.flip_test = 1, expected: input should be a valid bool"),
    ("codec.heatmap_size", "36", "codec.heatmap_size = 36, expected: input should be a valid arr"),
    ("codec.blur_kernel_size", "10", "codec.blur_kernel_size must be odd, got 10"),
    ("codec.interpolation", "area", 'codec.interpolation = "area", expected: input should'),
    ("codec.outside", "clip", "codec.outside = \"clip\", expected: input should be 'window' or"),
    ("codec.occluded_weight", "0.4", "codec.occluded_weight = 0.4, expected 0 or 0.5..1: below"),
    ("codec.occluded_weight", "1.5", "codec.occluded_weight = 1.5, expected: input should be less"),
    ("codec.blur_border", "wrap", "codec.blur_border = \"wrap\", expected: input should be 'zero'"),
    ("weights.sha256", "abc", 'weights.sha256 = "abc", expected: string should match pattern'),
    ("weights.source", "file", "weights.file must be given when source is file"),
    ("weights.source", "url", "weights.url must be given when source is url"),
    ("weights.source", "huggingface", "weights.repo must be given when source is huggingface"),
    ("weights.url", "ftp://x", 'weights.url = "ftp://x", expected: string should match pattern'),
    ("weights.head", "old", "weights.head = \"old\", expected: input should be 'fresh' or 'keep'"),
    ("codec.type", "dark", "codec.type = \"dark\", expected: input should be 'gaussian' or 'com"),
    ("model.head", "simple", "model.deconv_channels and conv_channels must be [] for head simple"),
    ("data.base_url", "s3://x", 'data.base_url = "s3://x", expected: string should match pattern'),
    ("data.detections", "https://x/y", "data.detections_sha256 must be given when detections is"),
    ("data.detections_sha256", "1", "data.detections_sha256 = 1, expected: input should be a va"),
    ("evaluate.models", "[]", "evaluate.models = [], expected: tuple should have at least 1 item"),
    ("evaluate.models", "[ssl, ssl]", "evaluate.models = ['ssl', 'ssl'], expected each name once"),
    ("evaluate.ablation", "most", "evaluate.ablation = 'most', expected full, headline or a list"),
    ("evaluate.ablation", "[turn]", "evaluate.ablation = ['turn'], expected full, headline or a"),
    ("evaluate.ablation", "[multiscale]", "evaluate.scales = [1.0], expected more of them for mu"),
    ("evaluate.scales", "[0.9, 1.1]", "evaluate.scales = [0.9, 1.1], expected 1.0 and others, ea"),
    ("evaluate.scales", "[1.0, 1.0]", "evaluate.scales = [1.0, 1.0], expected 1.0 and others, ea"),
    ("evaluate.scales", "[1.1, 1.0]", "evaluate.scales = [1.1, 1.0], expected: ascending numbers"),
    ("evaluate.ensemble", "[ssl]", "evaluate.ensemble = ['ssl'], expected none or at least two"),
    ("data.category", "5", "data.category = 5, expected: text or a list of names"),
    ("data.category", "[]", "data.category = [], expected: text or a list of names"),
    ("data.category", "[1, 2]", "data.category = [1, 2], expected: text or a list of names"),
    ("evaluate.ablation", "3", "evaluate.ablation = 3, expected: text or a list of names"),
    (
        "data.also",
        "[{name: a, root: b, category: 5}]",
        "data.also.0.category = 5, expected: text or a list of names",
    ),
    (
        "data.also",
        "[{name: a, root: b, map: {category: 5}}]",
        "data.also.0.map.category = 5, expected: input should be a valid string",
    ),
    ("train.warmup_epochs", "-1", "train.warmup_epochs = -1, expected: input should be greater"),
]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"source": "coco", "val_fraction": "0.1"}, "val_fraction is for source: local, not coco"),
        ({"train_annotations": "a.json"}, "train_annotations is for source: local, not synth"),
        ({"val_images": "a.zip"}, "val_images is for source: local, not synthetic; null it"),
        (
            {"source": "local", "val_fraction": "0.1", "val_annotations": "a.json"},
            "val_fraction and val_annotations are both given; null one",
        ),
        (
            {"source": "local", "val_fraction": "0.1", "val_images": "a"},
            "val_fraction and val_images are both given; null one",
        ),
        ({"source": "local", "group_by": "a"}, "group_by = 'a' is for val_fraction, which is null"),
        (
            {"source": "local", "val_fraction": "0.1", "group_by": "'(a'"},
            "group_by = '(a' is not a regular expression: missing ), unterminated subpattern",
        ),
    ],
)
def test_files_of_own_sets(bent_params, values: dict[str, str], expected: str) -> None:
    path = bent_params({f"data.{key}": value for key, value in values.items()})
    assert message(path).startswith(f"{path.name}: data.{expected}")


@pytest.mark.parametrize("value", ["0", "1", "1.5", "-0.1", "half"])
def test_val_fraction_leaves_two_sides(bent_params, value: str) -> None:
    path = bent_params({"data.source": "local", "data.val_fraction": value})
    assert f"{path.name}: data.val_fraction = " in message(path)


@pytest.mark.parametrize(
    ("values", "models", "ttas"),
    [
        ({}, ("phase1", "phase2", "ssl"), ("none", "flip")),
        ({"ablation": "headline"}, ("ssl",), ("flip",)),
        ({"ablation": "headline", "flip_test": "false"}, ("ssl",), ("none",)),
        ({"ablation": "[none]"}, ("phase1", "phase2", "ssl"), ("none", "flip")),
        ({"ablation": "[]", "models": "[ssl, phase2]"}, ("ssl", "phase2"), ("flip",)),
        (
            {"scales": "[0.9, 1.0]"},
            ("phase1", "phase2", "ssl"),
            ("none", "flip", "multiscale"),
        ),
        ({"scales": "[0.9, 1.0]", "ablation": "headline"}, ("ssl",), ("flip",)),
    ],
)
def test_what_is_evaluated(bent_params, values: dict[str, str], models, ttas) -> None:
    law = load_params(bent_params({f"evaluate.{key}": value for key, value in values.items()}))
    assert (law.evaluate.asked_models, law.evaluate.ttas) == (models, ttas)


def message(path: Path) -> str:
    with pytest.raises(PoseError) as caught:
        load_params(path)
    return str(caught.value)


def test_the_projects_own_file_is_valid(bent_params) -> None:
    assert isinstance(load_params(bent_params({})), Params)


@pytest.mark.parametrize(("key", "value", "expected"), BAD)
def test_a_bad_value_is_one_line_with_key_value_and_expectation(
    bent_params, key: str, value: str | None, expected: str
) -> None:
    found = message(bent_params({"weights.file": "null", key: value}))
    assert found.startswith(f"params.yaml: {expected}")
    assert "\n" not in found


@pytest.mark.parametrize("size", ["[37, 48]", "[36, 49]", "[48, 36]"])
def test_the_heatmap_must_be_what_the_model_makes(bent_params, size: str) -> None:
    found = message(bent_params({**SIZES, "codec.heatmap_size": size}))
    assert found == (
        f"params.yaml: codec.heatmap_size = {size}, but a grid of 9 x 12 tokens grown 4 "
        "times by model.head make [36, 48]"
    )


def test_heads_must_divide(bent_params) -> None:
    found = message(bent_params({"model.embed_dim": "128", "model.num_heads": "3"}))
    assert found == "params.yaml: model.num_heads 3 must divide embed_dim 128"


def test_the_ensemble_needs_gaussian_maps(bent_params) -> None:
    found = message(bent_params({"ssl.loss": "ensemble", "codec.type": "combined"}))
    assert found.startswith(
        "params.yaml: ssl.loss = 'ensemble', expected multiaugs for codec.type = 'combined'"
    )


@pytest.mark.parametrize(
    ("paths", "key"), [("[]", "ssl.paths"), ("[joco, jcmc]", "ssl.paths.1"), ("joco", "ssl.paths")]
)
def test_paths_are_known_and_at_least_one(bent_params, paths: str, key: str) -> None:
    assert message(bent_params({"ssl.paths": paths})).startswith(f"params.yaml: {key} = ")


def test_each_mistake_has_its_line(bent_params) -> None:
    found = message(bent_params({"train.lr": "0", "run.seed": "-1", "ssl.epochz": "1"}))
    keys = [line.split()[1] for line in found.splitlines()]
    assert sorted(keys) == ["run.seed", "ssl.epochz", "train.lr"]


@pytest.mark.parametrize("text", ["1e-05", "1e-5", "0.00001", "1.0E-5"])
def test_floats_as_dvc_writes_them(bent_params, text: str) -> None:
    assert load_params(bent_params({"train.lr": text})).train.lr == 1e-5


def test_a_whole_number_serves_as_float(bent_params) -> None:
    assert load_params(bent_params({"train.weight_decay": "1"})).train.weight_decay == 1.0


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "params.yaml: expected sections with keys, found NoneType"),
        (b"[1, 2]", "params.yaml: expected sections with keys, found list"),
        (b"train: {lr: [1", "params.yaml: not valid YAML: "),
        (b"run:\n  seed: 1\n  seed: 2\n", "params.yaml: not valid YAML: "),
        (b"\xff\xfe", "params.yaml: not valid YAML: "),
    ],
)
def test_files_that_are_no_params(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    found = message(path)
    assert found.startswith(expected)
    assert "\n" not in found


def test_an_absent_file(tmp_path: Path) -> None:
    expected = "params.yaml: no such file; `git checkout params.yaml` restores it"
    assert message(tmp_path / "params.yaml") == expected


def test_only_declared_keys_can_be_read(bent_params) -> None:
    params = load_params(bent_params({}), ["run", "codec.sigma", "codec.input_size"])
    assert params.run.seed >= 0
    assert params.codec.sigma > 0
    assert len(params.codec.input_size) == 2
    for read in (lambda: params.train, lambda: params.codec.heatmap_size):
        with pytest.raises(AttributeError):
            read()


def test_sections_are_frozen(bent_params) -> None:
    params = load_params(bent_params({}))
    with pytest.raises(ValueError, match="frozen"):
        params.train.lr = 1.0


@pytest.mark.parametrize(
    ("size", "padding", "grid"),
    [
        ((768, 1024), 2, (48, 64)),
        ((192, 256), 2, (12, 16)),
        ((72, 96), 0, (4, 6)),
        ((200, 208), 4, (13, 13)),
    ],
)
def test_grid_is_what_the_convolution_makes(bent_params, size, padding: int, grid) -> None:
    model = load_params(bent_params({})).model.model_copy(
        update={"patch_size": 16, "patch_padding": padding}
    )
    assert model.grid_wh(size) == grid


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1.0), ("linear", 0.25), ("sqrt", 0.5)])
def test_lr_scales_with_the_batch(bent_params, scaling: str, factor: float) -> None:
    law = load_params(bent_params({"train.lr_scaling": scaling, "train.lr_base_batch": "32"})).train
    assert law.batch_size == 8
    assert law.lr_factor == factor


def test_min_lr_is_compared_with_stage_2_as_well(bent_params) -> None:
    changes = {"ssl.lr": "1e-6"}
    assert "ssl.lr = 1e-06, expected at least train.min_lr = 5e-06" in message(bent_params(changes))
    load_params(bent_params({**changes, "ssl.epochs": "0"}))


def test_min_lr_is_compared_with_the_scaled_peak(bent_params) -> None:
    changes = {"train.lr_scaling": "linear", "train.lr_base_batch": "80", "train.min_lr": "1e-3"}
    assert "min_lr = 0.001, expected at most train.lr = 0.0003" in message(bent_params(changes))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("names", "nose", 'keypoints.names = "nose", expected: input should be a valid array'),
        ("flip_pairs", "[[a, b, c]]", 'keypoints.flip_pairs.0 = ["a", "b", "c"], expected: tuple'),
        ("oks_sigmas", "[0.1, 0]", "keypoints.oks_sigmas.1 = 0, expected: input should be greater"),
        ("upper_body", "[nose]", "keypoints.upper_body and lower_body must both be given, or both"),
        ("parts", "[body, feet]", "keypoints.parts.1 = \"feet\", expected: input should be 'body'"),
        ("parts", "wholebody", 'keypoints.parts = "wholebody", expected: input should be a valid'),
        ("parts", "[body]", "keypoints.parts = ['body'], expected body and others of foot, face,"),
        ("parts", "[]", "keypoints.parts = [], expected body and others of foot, face, lefthand,"),
        ("parts", "[foot, face]", "keypoints.parts = ['foot', 'face'], expected body and others"),
        ("parts", "[body, face, foot]", "keypoints.parts = ['body', 'face', 'foot'], expected bod"),
        ("parts", "[body, foot, foot]", "keypoints.parts = ['body', 'foot', 'foot'], expected bod"),
        ("parts", "[body, lefthand]", "keypoints.parts = ['body', 'lefthand'], expected both hand"),
    ],
)
def test_bad_keypoints(bent_params, key: str, value: str, expected: str) -> None:
    assert message(bent_params({f"keypoints.{key}": value})).startswith(f"params.yaml: {expected}")


def test_parts_have_names(bent_params) -> None:
    changes = {"keypoints.parts": "[body, foot]"}
    assert load_params(bent_params(changes)).keypoints.parts == ("body", "foot")
    found = message(bent_params(changes | {"keypoints.names": "[nose]"}))
    expected = "params.yaml: keypoints.parts and names are both given; null one: parts have names"
    assert found == expected


def other_value(value: object) -> str:
    """Another value in Hydra's grammar; whether it is valid does not matter here."""
    if isinstance(value, bool):
        return str(not value).lower()
    if isinstance(value, int | float):
        return str(value + 1)
    return "[x, y, z]" if isinstance(value, list) else "other"


def without_keys(text: str, keys: dict[str, str]) -> list[str]:
    """The lines of params.yaml except those of {section: key} and of their list items."""
    others, here, inside = [], "", False
    for line in text.splitlines():
        here = line.split(":")[0] if re.match(r"\w+:", line) else here
        is_item = re.match(r"  (- |  )", line) is not None
        inside = here in keys and (line.startswith(f"  {keys[here]}:") or (inside and is_item))
        others += [] if inside else [line]
    return others


def section_of(text: str, section: str) -> str:
    """The lines of a section of params.yaml."""
    (lines,) = re.findall(rf"(?ms)^{section}:.*?(?=^\w|\Z)", text)
    return str(lines)


def edits(section: str, keys: dict[str, object]) -> list[tuple[str, str, object, str]]:
    """(section, key, old value, new one) for every key; lists are also emptied."""
    found = []
    for key, value in keys.items():
        emptied = ["[]"] if value and isinstance(value, list) else []
        found += [(section, key, value, new) for new in [other_value(value), *emptied]]
    return found


def test_an_experiment_changes_only_the_lines_of_its_settings(params_text: str, tmp_path) -> None:
    """As `dvc exp run -S` writes params.yaml, for every key, one of each section at a time."""
    path = tmp_path / "params.yaml"
    values = YAML(typ="safe", pure=True).load(params_text)
    for row in zip_longest(*(edits(section, keys) for section, keys in values.items())):
        changes = [edit for edit in row if edit]
        path.write_text(params_text, encoding="utf-8")
        apply_overrides(path, [f"{section}.{key}={new}" for section, key, _, new in changes])
        written = path.read_text(encoding="utf-8")
        keys = {section: key for section, key, *_ in changes}
        assert without_keys(written, keys) == without_keys(params_text, keys), changes
        for section, key, value, new in changes:
            lines = section_of(written, section)  # all else is as before
            assert YAML(typ="safe", pure=True).load(lines)[section][key] != value, (key, new)
