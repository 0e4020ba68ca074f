"""Recipes have the official numbers, apply.py merges them, and a small copy of each trains."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from dvc.utils.hydra import apply_overrides

import apply
from pose.common.errors import PoseError
from pose.common.params import Params, load_params
from pose.common.skeleton import COCO_17
from pose.data import build
from pose.engine import train
from pose.engine.finetune import freeze_for_phase2_
from pose.engine.fit import TrainState, fit, supervised_step
from pose.engine.optim import build_adamw, parameter_groups
from pose.models import build as models_build
from pose.models.pose_model import PoseModel, build_on_meta
from pose.models.spec import model_spec

SAPIENS = {  # (embed_dim, depth, heads), backbone and head parameters, AP, AR
    "0.3b": ((1024, 24, 16), 306_244_608, 23_214_353, 79.6, 83.6),
    "0.6b": ((1280, 32, 16), 634_597_120, 26_360_081, 81.2, 84.9),
    "1b": ((1536, 40, 24), 1_139_163_648, 29_505_809, 82.1, 85.9),
    "2b": ((1920, 48, 32), 2_131_943_040, 34_224_401, 82.2, 86.0),
}
VITPOSE = {  # (embed_dim, depth, heads), drop path, layer decay, head parameters, AP, AR
    "s": ((384, 12, 12), 0.1, 0.8, 2_626_833, 73.8, 79.2),
    "b": ((768, 12, 12), 0.3, 0.75, 4_199_697, 75.8, 81.1),
    "l": ((1024, 24, 16), 0.5, 0.8, 5_248_273, 78.3, 83.5),
    "h": ((1280, 32, 16), 0.55, 0.85, 6_296_849, 79.1, 84.1),
}
VITPOSEPP = {"s": (75.8, 82.6), "b": (77.0, 82.6), "l": (78.6, 84.1), "h": (79.4, 84.8)}  # AP, AR
SAPIENS2 = {  # (embed_dim, depth, heads), backbone and head parameters, deconvolutions, 1x1s
    "0.1b": ((768, 12, 12), 113_993_472, 25_957_905, (1024, 768), (512, 512, 256)),
    "0.4b": ((1024, 24, 16), 395_450_368, 30_152_209, (1024, 768), (512, 512, 256)),
    "0.8b": ((1280, 32, 16), 814_283_520, 34_346_513, (1024, 768), (512, 512, 256)),
    "1b": ((1536, 40, 24), 1_455_474_176, 64_231_185, (1536, 1024), (768, 512, 256)),
}
SAPIENS2_TRAINING = {  # layer decay, clip_grad_norm, batch, official steps
    "0.4b": (0.80, 2.0, 48, 10_000),
    "0.8b": (0.85, 4.0, 96, 10_000),
    "1b": (0.90, 4.0, 56, 20_000),
}
SAPIENS_NAMES = {size: f"sapiens_{size}_coco_1024x768" for size in SAPIENS}
VITPOSE_NAMES = {size: f"vitpose_{size}_coco_256x192" for size in VITPOSE}
VITPOSEPP_NAMES = {size: f"vitposepp_{size}_coco_256x192" for size in VITPOSEPP}
SAPIENS2_NAMES = {size: f"sapiens2_{size}_coco_1024x768" for size in SAPIENS2}
ZERO_SHOT = "sapiens2_0.4b_coco_zero_shot"
OFFICIAL = [*SAPIENS_NAMES.values(), *VITPOSE_NAMES.values()]
SSL = {  # labelled persons, epochs of stage 2, AP of one and of two networks (ResNet18)
    "1k": (1000, 30, 45.5, 49.7),
    "5k": (5000, 70, 56.2, 58.8),
    "10k": (10000, 100, 59.9, 61.8),
}
SSL_NAMES = {size: f"ssl_coco_{size}" for size in (*SSL, "full")}
WHOLE_BODY = "vitposepp_b_wholebody_256x192"
READY = [*VITPOSEPP_NAMES.values(), ZERO_SHOT, WHOLE_BODY]  # evaluated without training
SEVERAL, TRIAL = "vitpose_b_coco_aic_mpii", "coco_trial"
LORA = {  # with adapters: the recipe that they differ from
    "sapiens_1b_lora_coco_1024x768": SAPIENS_NAMES["1b"],
    "sapiens_2b_lora_coco_1024x768": SAPIENS_NAMES["2b"],
    "vitpose_h_lora_coco_256x192": VITPOSE_NAMES["h"],
    "sapiens2_0.8b_lora_coco_1024x768": SAPIENS2_NAMES["0.8b"],
    "sapiens2_1b_lora_coco_1024x768": SAPIENS2_NAMES["1b"],
}
NAMES = [
    "coco_512x384",
    *OFFICIAL,
    *SSL_NAMES.values(),
    *SAPIENS2_NAMES.values(),
    *READY,
    *LORA,
    SEVERAL,
    TRIAL,
]
PERSONS = 149_813  # of COCO's train2017, with keypoints
PER_EPOCH = PERSONS // 64  # steps


@cache
def merged(name: str) -> tuple[str, list[apply.Change]]:
    """The recipe in the project's params.yaml: text, changes."""
    return apply.merge(apply.PARAMS.read_text(encoding="utf-8"), apply.read_recipe(name))


@cache
def resolved(name: str) -> Params:
    return apply.parse_params(merged(name)[0])


@cache
def overridden(text: str, *overrides: str) -> str:
    """A params.yaml as `dvc exp run -S` writes it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        path.write_text(text, encoding="utf-8")
        apply_overrides(path, list(overrides))
        return path.read_text(encoding="utf-8")


@cache
def on_meta(name: str) -> PoseModel:
    return build_on_meta(model_spec(resolved(name), 17))


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def leaves(params: Params) -> dict[str, Any]:
    return flat(params.model_dump(mode="json"))


def flat(sections: dict[str, Any]) -> dict[str, Any]:
    """{section.key: value}"""
    return {f"{section}.{key}": keys[key] for section, keys in sections.items() for key in keys}


def listed(name: str) -> list[str]:
    recipe = apply.read_recipe(name)
    return [f"{section}.{key}" for section, keys in recipe.items() for key in keys]


def header(name: str) -> str:
    """The comment that opens a recipe, as one line."""
    text = (apply.RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    lines = text.split("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in lines)
    return " ".join(" ".join(line.lstrip("#") for line in lines).split())


@pytest.fixture
def params_copy(tmp_path: Path, params_text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A params.yaml that apply.py writes instead of the project's."""
    path = tmp_path / "params.yaml"
    path.write_text(params_text, encoding="utf-8")
    monkeypatch.setattr(apply, "PARAMS", path)
    return path


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["apply.py", *arguments])
    apply.main()


def test_all_recipes_are_tested() -> None:
    assert apply.recipe_names() == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_changes_what_it_lists_and_nothing_else(name: str) -> None:
    before, after = leaves(load_params(apply.PARAMS)), leaves(resolved(name))
    assert {key for key in after if after[key] != before[key]} <= set(listed(name))


def differing_keys(name: str, found: dict[str, Any], expected: dict[str, Any]) -> set[str]:
    """Keys whose values differ; keys of stage 2 only if the recipe has epochs of it."""
    assert found.keys() == expected.keys()
    differing = {key for key in found if found[key] != expected[key]}
    if resolved(name).ssl.epochs == 0:
        return {key for key in differing if not key.startswith("ssl.")}
    return differing


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_can_be_applied_after_another(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sets every key that any of them sets: of all pairs, the values before they are text."""
    texts = {other: merged(other)[0] for other in NAMES}
    expected, recipe = flat(apply._parse(texts[name], name)), apply.read_recipe(name)
    for other, text in texts.items():
        with monkeypatch.context() as patch:
            patch.setattr(apply, "_dump", flat)
            found, changes = apply.merge(text, recipe)
        values = found if changes else flat(apply._parse(text, other))
        assert differing_keys(name, values, expected) == set(), other


def test_all_recipes_in_one_file_one_after_another(params_text: str) -> None:
    """The same as text, which ruamel writes: in this order each kind of change is met."""
    text = params_text
    for name in [*NAMES, *reversed(NAMES)]:
        text, _ = apply.merge(text, apply.read_recipe(name))
        found = leaves(apply.parse_params(text))
        assert differing_keys(name, found, leaves(resolved(name))) == set()
        assert re.findall(r"#.*", text) == re.findall(r"#.*", params_text)


@pytest.mark.parametrize("name", NAMES)
def test_a_header_states_what_a_run_needs(name: str) -> None:
    found = header(name)
    for word in (
        f"recipes/apply.py {name}",
        "Source:",
        "Expected:",
        "Hours: not measured",
        "Licenc",
    ):
        assert word in found
    published = {*OFFICIAL, *VITPOSEPP_NAMES.values()}
    assert ("AP_H_70" in found) == ("AP_H_56" in found) == (name in published)
    assert any(licence in found for licence in ("CC BY-NC 4.0", "Apache-2.0", "Sapiens2 License"))
    assert ("ours, not official" in found) == (
        name.startswith("sapiens2_") or name in {*LORA, SEVERAL}
    )
    text = (apply.RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 100


def keys(text: str) -> list[str]:
    """The keys and other lines of params.yaml, without values and list items."""
    return [line.split(":")[0] for line in text.splitlines() if line[:4] not in ("  - ", "    ")]


@pytest.mark.parametrize("name", NAMES)
def test_applying_preserves_comments_and_is_idempotent(params_text: str, name: str) -> None:
    once, changes = merged(name)
    assert {key for key, _, _ in changes} <= set(listed(name))
    assert len(changes) > 20
    assert re.findall(r"#.*", once) == re.findall(r"#.*", params_text)
    assert keys(once) == keys(params_text)
    assert apply.merge(once, apply.read_recipe(name)) == (once, [])


@pytest.mark.parametrize("name", apply.recipe_names())
def test_a_recipe_is_merged_into_what_dvc_wrote(params_text: str, name: str) -> None:
    """Comments behind the keys of block lists: an empty list there is a special case in ruamel."""
    behind = re.sub(r"^  (# .+)\n  (\w+):\n", r"  \2:  \1\n", params_text, flags=re.M)
    written = overridden(behind, "train.lr=0.123", "codec.input_size=[96,128]")
    text, _ = apply.merge(written, apply.read_recipe(name))
    assert apply.parse_params(text) == resolved(name)
    assert re.findall(r"#.*", text) == re.findall(r"#.*", written)


@pytest.mark.parametrize("name", NAMES)
def test_keys_that_belong_to_other_files_are_reset(
    params_copy: Path, params_text: str, capsys: pytest.CaptureFixture[str], monkeypatch, name: str
) -> None:
    """A digest, a key, an expert or boxes of an earlier setting, in a file that DVC wrote."""
    digest = "a" * 64
    before = {"data.detections": "boxes.json", "data.detections_sha256": digest}
    before |= {"weights.sha256": digest, "weights.key": "teacher", "weights.url": "https://a.org/b"}
    before |= {"weights.expert": 3, "weights.repo": "a/b", "weights.revision": "c"}
    written = overridden(params_text, *(f"{key}='{value}'" for key, value in before.items()))
    params_copy.write_text(written, encoding="utf-8")
    run_main(monkeypatch, name)
    assert load_params(params_copy) == resolved(name)
    lines = capsys.readouterr().out.splitlines()
    for key in ("data.detections", "data.detections_sha256", "weights.sha256", "weights.key"):
        assert f'{key}: "{before[key]}" -> null' in lines


def test_a_file_without_weights_resets_nothing(
    params_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "short.yaml").write_text("train: {lr: 0.5}", encoding="utf-8")
    monkeypatch.setattr(apply, "RECIPES", recipes)
    given = ["weights.source=file", "weights.file=a.pth", "data.detections=boxes.json"]
    apply_overrides(params_copy, given)
    before = leaves(load_params(params_copy))
    run_main(monkeypatch, "short")
    assert leaves(load_params(params_copy)) == before | {"train.lr": 0.5}


@pytest.mark.parametrize("name", NAMES)
def test_flags_give_dvc_the_same_params(
    params_copy: Path, params_text: str, capsys: pytest.CaptureFixture[str], monkeypatch, name: str
) -> None:
    """As dvc parses `dvc exp run -S`."""
    run_main(monkeypatch, name, "--args")
    words = shlex.split(capsys.readouterr().out)
    assert words[::2] == ["-S"] * len(listed(name))
    assert params_copy.read_text(encoding="utf-8") == params_text
    apply_overrides(params_copy, words[1::2])
    assert load_params(params_copy) == resolved(name)


def test_flags_of_odd_strings(params_copy: Path) -> None:
    text = "weights: {source: file, file: '/a b/null, [x].pth', repo: 'null', revision: 'a''b'}\n"
    recipe = apply._parse(text, "x")
    with pytest.raises(PoseError, match="cannot be passed as a flag"):
        apply.flags(recipe)
    del recipe["weights"]["revision"]
    apply_overrides(params_copy, apply.flags(recipe))
    weights = load_params(params_copy).weights
    assert (weights.file, weights.repo) == ("/a b/null, [x].pth", "null")


def test_applying_writes_and_prints_the_difference(
    params_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    before, after = leaves(load_params(apply.PARAMS)), leaves(resolved("sapiens_1b_coco_1024x768"))
    run_main(monkeypatch, "sapiens_1b_coco_1024x768")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == sum(after[key] != before[key] for key in after)
    assert 'data.source: "synthetic" -> "coco"' in lines
    assert "codec.input_size: [72, 96] -> [768, 1024]" in lines
    assert "train.lr: 0.003 -> 0.0005" in lines
    assert load_params(params_copy) == resolved("sapiens_1b_coco_1024x768")
    run_main(monkeypatch, "sapiens_1b_coco_1024x768")
    message = "params.yaml already has the values of sapiens_1b_coco_1024x768\n"
    assert capsys.readouterr().out == message


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("train: {lrr: 1}", "params.yaml: train.lrr = 1 is not a known key; check its spelling"),
        ("trains: {lr: 1}", 'params.yaml: trains = {"lr": 1} is not a known key'),
        ("train: {lr: 0, batch_size: 0}", "greater than 0; params.yaml: train.batch_size = 0"),
        (
            "model: {patch_size: 16}",
            "params.yaml: codec.heatmap_size = [36, 48], but a grid of 4 x 6",
        ),
        ("train: 3", "bad.yaml: expected sections with keys"),
        ("", "bad.yaml: expected sections with keys"),
        ("train: {lr: [1", "bad.yaml: not valid YAML"),
    ],
)
def test_a_bad_recipe_gives_one_line_and_writes_nothing(
    params_copy: Path, params_text: str, tmp_path: Path, monkeypatch, recipe: str, expected: str
) -> None:
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "bad.yaml").write_text(recipe, encoding="utf-8")
    monkeypatch.setattr(apply, "RECIPES", recipes)
    with pytest.raises(PoseError) as caught:
        run_main(monkeypatch, "bad")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert params_copy.read_text(encoding="utf-8") == params_text


def test_a_params_file_that_cannot_be_read(params_copy: Path, monkeypatch) -> None:
    params_copy.unlink()
    with pytest.raises(PoseError, match="restores it"):
        run_main(monkeypatch, NAMES[0])


def test_the_command_from_another_folder(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(apply.RECIPES / "apply.py"), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    listing = run().stdout.splitlines()
    names = apply.recipe_names() + apply.keypoint_sets()
    assert [line.split()[0] for line in listing] == names
    assert all(len(line.split()) > 4 for line in listing)
    done = run("sapiens")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"apply: no recipe 'sapiens'; choose one of {', '.join(names)}\n"
    assert "python recipes/apply.py NAME --args" in run("--help").stdout


# what the official configurations say


@pytest.mark.parametrize("size", SAPIENS)
def test_sapiens_is_the_official_model(size: str) -> None:
    sizes, backbone, head, ap, ar = SAPIENS[size]
    name = SAPIENS_NAMES[size]
    params, model = resolved(name), on_meta(name)
    spec = params.model
    assert (spec.embed_dim, spec.depth, spec.num_heads) == sizes
    assert (count(model.backbone), count(model.head)) == (backbone, head)
    assert (spec.head, spec.patch_size, spec.patch_padding, spec.drop_path) == (
        "sapiens",
        16,
        2,
        0.0,
    )
    codec = params.codec
    assert (codec.type, codec.input_size, codec.heatmap_size) == (
        "gaussian",
        (768, 1024),
        (192, 256),
    )
    assert (codec.sigma, codec.blur_kernel_size, codec.blur_border) == (6.0, 11, "zero")
    assert params.train.layer_decay == 0.85
    assert f"AP {ap}, AR {ar} on val2017" in header(name)
    assert params.weights.repo == "facebook/sapiens"
    epoch = {"1b": 173, "2b": 660}.get(size, 1600)
    assert params.weights.file == (
        f"sapiens_host/pretrain/checkpoints/sapiens_{size}/sapiens_{size}_epoch_{epoch}_clean.pth"
    )


@pytest.mark.parametrize("size", VITPOSE)
def test_vitpose_is_the_official_model(size: str) -> None:
    (dim, depth, heads), drop_path, layer_decay, head, ap, ar = VITPOSE[size]
    name = VITPOSE_NAMES[size]
    params, model = resolved(name), on_meta(name)
    spec = params.model
    assert (spec.embed_dim, spec.depth, spec.num_heads) == (dim, depth, heads)
    assert (spec.head, spec.patch_size, spec.patch_padding) == ("classic", 16, 2)
    blocks = depth * (12 * dim * dim + 13 * dim)
    assert count(model.backbone) == 768 * dim + dim + 192 * dim + blocks + 2 * dim
    assert count(model.head) == head
    assert (spec.drop_path, params.train.layer_decay) == (drop_path, layer_decay)
    codec = params.codec
    assert (codec.type, codec.input_size, codec.heatmap_size) == ("gaussian", (192, 256), (48, 64))
    assert (codec.sigma, codec.blur_kernel_size, codec.blur_border) == (2.0, 11, "mirror")
    assert f"AP {ap}, AR {ar} on val2017" in header(name)


@pytest.mark.parametrize("size", VITPOSEPP)
def test_vitposepp_is_the_ready_model(size: str) -> None:
    """ViTPose's network, COCO's expert and head, and nothing to train."""
    params, plain = resolved(VITPOSEPP_NAMES[size]), resolved(VITPOSE_NAMES[size])
    assert (params.model, params.codec, params.augment) == (plain.model, plain.codec, plain.augment)
    word = {"s": "small", "b": "base", "l": "large", "h": "huge"}[size]
    weights = params.weights
    assert (weights.source, weights.expert, weights.head) == ("huggingface", 0, "keep")
    assert weights.repo == f"usyd-community/vitpose-plus-{word}"
    assert weights.file == "model.safetensors"
    assert params.train.layer_decay == plain.train.layer_decay
    ap, ar = VITPOSEPP[size]
    assert f"AP {ap}, AR {ar} on val2017" in header(VITPOSEPP_NAMES[size])


def test_several_sets_differ_from_coco_alone_in_the_sets() -> None:
    several, alone = leaves(resolved(SEVERAL)), leaves(resolved(VITPOSE_NAMES["b"]))
    assert {key for key in alone if several[key] != alone[key]} == {"data.also"}
    assert [one.name for one in resolved(SEVERAL).data.also] == ["aic", "mpii"]


def test_the_trial_reads_val2017_alone_and_says_what_it_is() -> None:
    params, text = resolved(TRIAL), header(TRIAL)
    data, source = params.data, leaves(resolved(VITPOSEPP_NAMES["s"]))
    assert (data.source, data.train_split, data.val_fraction) == ("local", "val2017", 0.2)
    found = leaves(params)
    same = [key for key in found if key.startswith(("weights.", "model.", "codec.", "augment."))]
    assert [key for key in same if found[key] != source[key]] == []
    assert "A trial" in text
    assert "comparable with nothing" in text
    assert "1 GB" in text


@pytest.mark.parametrize("name", READY)
def test_a_ready_model_is_evaluated_once_and_not_trained(name: str) -> None:
    params = resolved(name)
    assert (params.phase1.epochs, params.phase2.epochs, params.ssl.epochs) == (0, 0, 0)
    assert params.evaluate.models == ("ssl",)
    assert "evaluate_checkpoint.py" in header(name)
    if params.weights.source == "huggingface":
        assert f"hf://{params.weights.repo}/{params.weights.file}" in header(name)


def test_whole_bodies_are_evaluated_with_the_head_of_expert_5() -> None:
    """Everything else is COCO's recipe; a recipe applied after it has the body alone again."""
    found, body = leaves(resolved(WHOLE_BODY)), leaves(resolved(VITPOSEPP_NAMES["b"]))
    differing = {key for key in found if found[key] != body[key]}
    assert {key.split(".")[0] for key in differing} == {"data", "keypoints", "weights"}
    assert found["keypoints.parts"] == ["body", "foot", "face", "lefthand", "righthand"]
    assert (found["weights.expert"], found["weights.head"]) == (5, "keep")
    for split in ("train", "val"):
        file = f"coco_wholebody_{split}_v1.0.json"
        assert found[f"data.{split}_annotations"] == f"annotations/{file}"
        assert file in header(WHOLE_BODY)


@pytest.mark.parametrize("size", SAPIENS2)
def test_sapiens2_is_the_official_model(size: str) -> None:
    sizes, _, head, deconv_channels, conv_channels = SAPIENS2[size]
    params = resolved(SAPIENS2_NAMES[size])
    spec, codec = params.model, params.codec
    assert (spec.embed_dim, spec.depth, spec.num_heads) == sizes
    assert (spec.family, spec.mlp_dim, spec.rope_dtype) == ("sapiens2", None, "bf16")
    assert (spec.patch_size, spec.patch_padding, spec.drop_path) == (16, 0, 0.0)
    assert (spec.head, spec.deconv_channels) == ("sapiens", deconv_channels)
    assert spec.conv_channels == conv_channels
    assert count(on_meta(SAPIENS2_NAMES[size]).head) == head
    assert (codec.type, codec.input_size, codec.heatmap_size) == (
        "gaussian",
        (768, 1024),
        (192, 256),
    )
    assert (codec.sigma, codec.blur_kernel_size, codec.blur_border) == (6.0, 11, "zero")
    assert (codec.interpolation, codec.outside, codec.occluded_weight) == ("cubic", "ignore", 1.0)
    assert params.evaluate.nms_area == "keypoints"
    weights = params.weights
    assert (weights.repo, weights.file, weights.head) == (
        f"facebook/sapiens2-pretrain-{size}",
        f"sapiens2_{size}_pretrain.safetensors",
        "fresh",
    )


@pytest.mark.parametrize("size", SAPIENS2)
def test_sapiens2_has_the_official_number_of_parameters(size: str) -> None:
    assert count(on_meta(SAPIENS2_NAMES[size]).backbone) == SAPIENS2[size][1]


def test_the_official_layer_decay_groups_of_sapiens2() -> None:
    settings = resolved(SAPIENS2_NAMES["0.4b"]).train
    model = on_meta(SAPIENS2_NAMES["0.4b"])
    found = parameter_groups(model, settings.weight_decay, settings.layer_decay)
    assert (len(found), sum(len(group["params"]) for group in found)) == (52, 423)


@pytest.mark.parametrize("size", SAPIENS2)
def test_the_official_training_of_sapiens2(size: str) -> None:
    """0.1b has no official pose configuration: it has 0.4b's."""
    layer_decay, clip, batch, steps = SAPIENS2_TRAINING["0.4b" if size == "0.1b" else size]
    params = resolved(SAPIENS2_NAMES[size])
    settings = params.train
    assert (settings.lr, settings.weight_decay, settings.betas) == (5e-4, 0.1, (0.9, 0.999))
    assert (settings.layer_decay, settings.clip_grad_norm) == (layer_decay, clip)
    assert (settings.batch_size, settings.loss_weight, settings.amp) == (batch, 10.0, "bf16")
    assert (settings.schedule, settings.warmup_iters, settings.warmup_epochs) == ("linear", 500, 0)
    assert (settings.lr_scaling, settings.ema_decay) == ("none", 0.0)
    assert (params.phase1.epochs, params.ssl.epochs) == (0, 0)
    assert params.phase2.epochs == round(steps * batch / PERSONS)


@pytest.mark.parametrize("name", [*SAPIENS2_NAMES.values(), ZERO_SHOT])
def test_the_official_augmentation_of_sapiens2(name: str) -> None:
    """Sapiens' but for the colours, and no sample is drawn again."""
    sapiens = resolved(SAPIENS_NAMES["1b"]).augment
    colours = {"photometric_prob": 0.8, "channel_swap_prob": 0.0, "official_quirks": False}
    expected = sapiens.model_copy(update=colours | {"min_keypoints": 0})
    assert resolved(name).augment == expected
    assert sapiens.photometric_prob == 1.0


def test_zero_shot_has_the_pose_file_and_is_otherwise_the_trained_recipe() -> None:
    params, trained = resolved(ZERO_SHOT), resolved(SAPIENS2_NAMES["0.4b"])
    weights = params.weights
    assert (weights.repo, weights.file, weights.head) == (
        "facebook/sapiens2-pose-0.4b",
        "sapiens2_0.4b_pose.safetensors",
        "keep",
    )
    assert (params.model, params.codec, params.train) == (
        trained.model,
        trained.codec,
        trained.train,
    )
    assert params.evaluate.nms_area == "keypoints"


@pytest.mark.parametrize("name", OFFICIAL)
def test_headers_say_that_official_runs_select_by_ap(name: str) -> None:
    assert resolved(name).train.keep == "last"
    assert "official run selects those of the highest val AP" in header(name)


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_official_optimiser_and_schedule(name: str) -> None:
    params = resolved(name)
    settings = params.train
    assert (settings.lr, settings.weight_decay, settings.betas) == (5e-4, 0.1, (0.9, 0.999))
    assert (settings.clip_grad_norm, settings.amp) == (1.0, "none")
    assert (params.phase1.epochs, params.phase2.epochs, params.ssl.epochs) == (0, 210, 0)
    schedule = train.build_schedule(params, params.phase2.epochs, PER_EPOCH, settings.lr)
    expected = {
        0: 5e-7,
        250: 5e-4 * (0.001 + 0.999 * 250 / 499),
        499: 5e-4,
        500: 5e-4,
        170 * PER_EPOCH - 1: 5e-4,
        170 * PER_EPOCH: 5e-5,
        200 * PER_EPOCH - 1: 5e-5,
        200 * PER_EPOCH: 5e-6,
        210 * PER_EPOCH - 1: 5e-6,
    }
    assert schedule.steps == 210 * PER_EPOCH
    for step, lr in expected.items():
        assert schedule.at(step) == pytest.approx(lr, rel=1e-9), step


@pytest.mark.parametrize(
    ("size", "groups", "tensors", "smallest"),
    [("0.3b", 52, 301, 0.0172), ("1b", 84, 493, 0.001277)],
)
def test_the_official_layer_decay_groups(
    size: str, groups: int, tensors: int, smallest: float
) -> None:
    name = SAPIENS_NAMES[size]
    settings = resolved(name).train
    found = parameter_groups(on_meta(name), settings.weight_decay, settings.layer_decay)
    assert len(found) == groups
    assert sum(len(group["params"]) for group in found) == tensors
    assert min(group["lr_scale"] for group in found) == pytest.approx(smallest, rel=1e-3)
    assert {group["weight_decay"] for group in found} == {0.0, 0.1}


@pytest.mark.parametrize("name", [*SAPIENS_NAMES.values(), "coco_512x384"])
def test_the_official_augmentation_of_sapiens(name: str) -> None:
    reports = name == "coco_512x384"
    augment = resolved(name).augment
    assert (augment.bbox_padding, augment.flip_prob) == (1.25, 0.5)
    assert (augment.half_body_prob, augment.half_body_min_keypoints, augment.half_body_padding) == (
        0.3,
        9,
        1.5,
    )
    assert (augment.shift_factor, augment.shift_prob, augment.scale_factor) == (0.16, 0.3, 0.5)
    assert (augment.rotate_deg, augment.rotate_prob) == (80.0, 0.6)
    assert (augment.brightness_delta, augment.hue_delta, augment.channel_swap_prob) == (32, 18, 0.5)
    assert augment.contrast_range == augment.saturation_range == (0.5, 1.5)
    assert (augment.blur_prob, augment.median_blur_prob) == (0.1, 0.1)
    assert (augment.dropout_prob, augment.dropout_size) == (0.5 if reports else 1.0, (0.2, 0.4))
    assert (augment.min_keypoints, augment.official_quirks) == (4, True)


@pytest.mark.parametrize("name", VITPOSE_NAMES.values())
def test_vitpose_changes_no_colours(name: str) -> None:
    augment = resolved(name).augment
    assert (augment.brightness_delta, augment.hue_delta, augment.channel_swap_prob) == (0, 0, 0.0)
    assert augment.contrast_range == augment.saturation_range == (1.0, 1.0)
    assert (augment.blur_prob, augment.median_blur_prob, augment.dropout_prob) == (0.0, 0.0, 0.0)
    assert augment.min_keypoints == 1


@pytest.mark.parametrize("size", SSL)
def test_the_protocol_of_few_labels(size: str) -> None:
    persons, epochs, single, dual = SSL[size]
    params, text = resolved(SSL_NAMES[size]), header(SSL_NAMES[size])
    data, ssl = params.data, params.ssl
    assert (data.labelled_persons, data.unlabelled, data.unlabelled_images) == (
        persons,
        ("rest",),
        False,
    )
    assert (ssl.epochs, ssl.paths) == (epochs, ("jc", "jo", "joco", "jccm"))
    assert f"{single} (+" in text
    assert f"{dual} (+" in text


def test_every_label_and_images_without_any() -> None:
    params = resolved(SSL_NAMES["full"])
    data = params.data
    assert data.labelled_persons is None
    assert data.unlabelled_images
    assert data.unlabelled_detections is not None
    assert params.ssl.paths == ("joco", "jccm")


@pytest.mark.parametrize(("name", "whole"), LORA.items())
def test_adapters_are_trained_on_the_same_model_and_data(name: str, whole: str) -> None:
    params, other = resolved(name), resolved(whole)
    assert (params.train.finetune, params.model.frozen_dtype) == ("lora", "bf16")
    changes = {"frozen_dtype": "float32", "drop_path": other.model.drop_path}
    changes["grad_checkpointing"] = other.model.grad_checkpointing
    assert params.model.model_copy(update=changes) == other.model
    assert (params.data, params.weights, params.codec) == (other.data, other.weights, other.codec)
    assert (params.augment, params.evaluate) == (other.augment, other.evaluate)


@pytest.mark.parametrize("name", ["coco_512x384", *SSL_NAMES.values()])
def test_stage_2_has_the_papers_views(name: str) -> None:
    ssl = resolved(name).ssl
    assert (ssl.joint_cutout, ssl.joint_occlude, ssl.cutout, ssl.cutmix) == (5, 2, 5, 2)
    assert (ssl.rotate_deg, ssl.scale_factor, ssl.affine_prob) == (30.0, 0.25, 0.8)
    assert (ssl.unlabelled_weight, ssl.loss, ssl.networks) == (1.0, "multiaugs", 1)


@pytest.mark.parametrize("name", SSL_NAMES.values())
def test_stage_2_trains_vitpose_b(name: str) -> None:
    params, official = resolved(name), resolved(VITPOSE_NAMES["b"])
    assert (params.codec, params.model) == (official.codec, official.model)
    assert (params.augment, params.weights) == (official.augment, official.weights)


def test_the_reports_numbers() -> None:
    params = resolved("coco_512x384")
    settings = params.train
    assert (params.codec.input_size, params.codec.heatmap_size) == ((384, 512), (96, 128))
    assert (settings.batch_size, settings.lr, settings.weight_decay) == (32, 5e-4, 0.05)
    assert params.codec.occluded_weight == 0.5
    assert (params.phase1.epochs, params.phase2.epochs) == (10, 100)
    per_epoch = PERSONS // 32
    schedule = train.build_schedule(params, 100, per_epoch, settings.lr)
    assert schedule.warmup_iters == 10 * per_epoch
    assert schedule.at(0) == pytest.approx(5e-7)
    assert schedule.at(10 * per_epoch - 1) == pytest.approx(
        5e-6 + 4.95e-4 * (1 + math.cos(0.1 * math.pi)) / 2, rel=1e-4
    )
    assert schedule.at(schedule.steps - 1) == pytest.approx(5e-6)
    frozen = train.build_schedule(params, 10, per_epoch, settings.lr)
    peak = max(frozen.at(step) for step in range(0, frozen.steps, 100))
    assert f"its lr rises to {peak:.1e}" in header("coco_512x384")


# a step of training


def shrunken(params: Params) -> Params:
    """The same run on a grid of 3 x 4 tokens with two narrow blocks; the rest is unchanged."""
    raw = json.loads(params.model_dump_json())
    patch, growth = params.model.patch_size, params.model.head_growth
    raw["model"] |= {"embed_dim": 32, "depth": 2, "num_heads": 2}
    for part in ("deconv_channels", "conv_channels"):
        raw["model"][part] = [8] * len(raw["model"][part])
    raw["codec"] |= {"input_size": [3 * patch, 4 * patch], "heatmap_size": [3 * growth, 4 * growth]}
    raw["train"] |= {"batch_size": 4, "accumulate": 1}
    return Params.model_validate_json(json.dumps(raw))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_the_shrunken_recipe(name: str) -> None:
    torch.manual_seed(0)
    params = shrunken(resolved(name))
    settings, (width, height) = params.train, params.codec.input_size
    model = models_build.build_model(params, COCO_17)
    freeze_for_phase2_(model, params)
    start = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}
    images = torch.randint(0, 256, (settings.batch_size, height, width, 3), dtype=torch.uint8)
    targets = torch.rand(settings.batch_size, 17, 3) * torch.tensor(
        [*params.codec.heatmap_size, 1.0]
    )
    targets[..., 2] = 1.0
    rows: list[dict[str, float]] = []
    fit(
        name,
        settings,
        TrainState(
            model, build_adamw(model, settings.weight_decay, settings.layer_decay, settings.betas)
        ),
        [(images, targets)],
        supervised_step(model, build.codec(params, COCO_17), torch.device("cpu"), settings.amp),
        replace(train.build_schedule(params, 20, 100, settings.lr), steps=1),
        on_row=rows.append,
        save=lambda state: None,
    )
    assert math.isfinite(rows[0]["loss"])
    assert rows[0]["loss"] > 0
    assert rows[0]["grad_norm"] > 0
    after = model.state_dict()
    for key, parameter in model.named_parameters():
        trained = parameter.ndim > 1 or key == "backbone.norm.weight"
        if not parameter.requires_grad or "lora_A" in key:  # its gradient is 0 while B is 0
            assert params.train.finetune == "lora"
        elif trained and "blocks.1." not in key:  # block 1 may be dropped
            assert not torch.equal(after[key], start[key]), key
    dropped = [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]
    assert max(dropped, default=0.0) == pytest.approx(params.model.drop_path)
    assert model.grad_checkpointing == params.model.grad_checkpointing
