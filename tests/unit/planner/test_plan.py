"""plan.py: the estimates of a run from shapes alone."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import apply
import plan
from own_keypoints_data import write_mice
from pose.common import stage
from pose.common.errors import PoseError
from pose.common.params import Params
from pose.common.skeleton import COCO_17, asked_names
from pose.crop_table import CropTable
from pose.models.pose_model import build_on_meta
from pose.models.spec import model_spec
from pose.planner import plan as planner_plan
from pose.planner.count import (
    Flops,
    StepBytes,
    count_flops,
    count_parameters,
    count_step_bytes,
    model_of,
)

SAPIENS_2B = "sapiens_2b_coco_1024x768"
ZERO_SHOT = "sapiens2_0.4b_coco_zero_shot"
OTHER_PEOPLE = ("coco_trial", "vitpose_b_coco_aic_mpii")  # not those of train2017
PLANNED = [name for name in apply.recipe_names() if not name.startswith("ssl_")]

# several recipes train one model
flops_of = functools.cache(count_flops)
step_bytes_of = functools.cache(count_step_bytes)

IMAGES = {"unlabelled": ["boxes"], "unlabelled_images": True, "unlabelled_detections": "a.json"}


def vit_blocks(params: Params) -> float:
    """Multiply-adds of the blocks: 4 D x D in attention, 2 D x M in the MLP."""
    model = params.model
    w, h = model.grid_wh(params.codec.input_size)
    tokens, dim = w * h, model.embed_dim
    hidden = model.mlp_dim or 4 * dim
    matrices = 4 * dim**2 + 2 * dim * hidden
    return model.depth * (tokens * matrices + 2 * tokens**2 * dim)


def sapiens2_blocks(params: Params) -> float:
    """9 more tokens, 12 D x D in SwiGLU, and half of the keys and values in the middle blocks."""
    model = params.model
    w, h = model.grid_wh(params.codec.input_size)
    tokens, dim = w * h + 9, model.embed_dim
    middle = max(0, model.depth - 16)
    matrices = model.depth * 16 * dim**2 - middle * dim**2
    return tokens * matrices + model.depth * 2 * tokens**2 * dim


def keypoint_count(params: Params) -> int:
    return len(asked_names(params.keypoints.parts, params.keypoints.names) or COCO_17.names)


def forward_flops(params: Params) -> float:
    """Multiply-adds times 2 of patches, blocks and a head of deconvolutions and 1x1s, by hand."""
    model = params.model
    w, h = model.grid_wh(params.codec.input_size)
    tokens, dim = w * h, model.embed_dim
    macs = tokens * 3 * model.patch_size**2 * dim
    macs += sapiens2_blocks(params) if model.family == "sapiens2" else vit_blocks(params)
    cells, channels = tokens, dim
    for out in model.deconv_channels:  # each input cell writes 4 x 4 cells
        macs += cells * channels * out * 16
        cells, channels = cells * 4, out
    for out in (*model.conv_channels, keypoint_count(params)):
        macs += cells * channels * out
        channels = out
    return 2 * macs


def with_values(params: Params, section: str, **values: object) -> Params:
    """A copy with other values of a section."""
    raw = json.loads(params.model_dump_json())
    raw[section] |= values
    return Params.model_validate_json(json.dumps(raw))


@pytest.fixture(scope="module")
def default() -> Params:
    return apply.load_params(apply.PARAMS)


def header_of(name: str) -> str:
    """The comment that opens a recipe, as one line."""
    text = (apply.RECIPES / f"{name}.yaml").read_text(encoding="utf-8").split("\n\n")[0]
    return " ".join(text.replace("\n#", " ").split())


@pytest.mark.parametrize("name", PLANNED)
def test_a_recipe_is_planned(name: str) -> None:
    params, header = apply.resolve(name), header_of(name)
    spec = model_spec(params, keypoint_count(params))
    settings, model = params.train, params.model
    lora = settings.finetune == "lora"
    planned = planner_plan.make_plan(params, None) if lora else None
    forward = (planned.flops if planned else flops_of(spec)).forward
    assert forward == pytest.approx(forward_flops(params), rel=0.01)
    assert f"{forward / 1e9:,.1f} GFLOP" in header
    batch = settings.batch_size // settings.accumulate
    if planned:
        need = planner_plan.step_bytes(planned, "bf16", True, batch)
        step = (planned.flops.training + planned.flops.recomputed) / 1e9
        assert f"{step:,.1f} GFLOP x 149,813 people x {params.phase2.epochs}" in header
        fits = planner_plan.largest_batch(planned, "bf16", True, 16)
        assert f"{fits} on 16 GB" in header
        assert fits >= batch
        assert f"estimated (stages/plan.py) {need / 1e9:.0f} GB of GPU memory" in header
        return
    held = settings.accumulate > 1 or params.ssl.epochs > 0
    parameters = count_parameters(model_of(spec))
    step = step_bytes_of(spec, settings.amp, held=held)
    need = (16 if held else 12) * parameters + step.at(batch)
    if name != ZERO_SHOT:
        assert f"estimated (stages/plan.py) {need / 1e9:.0f} GB of GPU memory" in header
    if (epochs := params.phase2.epochs) and name not in OTHER_PEOPLE:
        factor = 4 if model.grad_checkpointing else 3
        assert f"{factor} x {forward / 1e9:,.1f} GFLOP x 149,813 people x {epochs}" in header
        hours = factor * forward * 149_813 * epochs / 3e14 / 3600
        plural = "s" if round(hours) > 1 else ""
        assert f"would take {hours:,.0f} GPU hour{plural} at an assumed 300 TFLOP/s" in header


def test_memory_settings_save_memory(default: Params) -> None:
    step = planner_plan.make_plan(default, None).step
    for amp in ("none", "bf16"):
        assert step(amp, True).at(16) < step(amp, False).at(16)
    for on in (False, True):
        ratio = step("bf16", on).at(16) / step("none", on).at(16)
        assert 0.5 < ratio < 0.7


# people


def test_a_built_cache_is_counted(tmp_path: Path, default: Params) -> None:
    summary = {"train": 40, "unlabelled": 8, "val": 7, "val_labelled": 6, "bad_records": 0}
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    assert planner_plan.count_people(default, tmp_path) == planner_plan.People(
        40, 8, 6, "data/cache"
    )


def test_without_a_cache_the_default_is_estimated(tmp_path: Path, default: Params) -> None:
    """The estimate is exact for the default: its numbers are constants in plan.py."""
    path = planner_plan.ACHIEVED.parents[1] / "metrics" / "build_cache" / "metrics.json"
    counts = json.loads(path.read_text(encoding="utf-8"))
    for cache in (None, tmp_path):
        people = planner_plan.count_people(default, cache)
        assert (people.labelled, people.unlabelled, people.val) == (
            counts["train"],
            counts["unlabelled"],
            counts["val_labelled"],
        )


def test_synthetic_people_are_proportional_to_their_params(default: Params) -> None:
    more = with_values(
        default, "synthetic", train_images=3400, unlabelled_fraction=0.5, val_images=120
    )
    people = planner_plan.count_people(more, None)
    assert (people.labelled, people.unlabelled, people.val) == (2604, 2424, 180)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"labelled_persons": 1000, "unlabelled": ["rest"]}, (1000, 148_813)),
        ({"labelled_fraction": 0.5, "unlabelled": ["boxes", "rest"]}, (74_906, 187_907)),
        (IMAGES, (149_813, 387_000)),
    ],
)
def test_people_are_selected_by_the_data_params(default: Params, data: dict, expected) -> None:
    people = planner_plan.count_people(with_values(default, "data", source="coco", **data), None)
    assert (people.labelled, people.unlabelled) == expected


def test_a_second_network_takes_memory(default: Params) -> None:
    two = with_values(default, "ssl", networks=2, ema_decay=0.9)
    model = build_on_meta(model_spec(default, 17))
    expected = 2 * (16 + 4) * count_parameters(model)
    assert sum(planner_plan.state_bytes(two, model, held=True).values()) == expected


@pytest.mark.parametrize(
    ("processes", "accumulate", "epochs", "expected"),
    [(1, 1, 0, False), (2, 1, 0, True), (1, 2, 0, True), (1, 1, 1, True)],
)
def test_gradients_are_held_by_what_adds_to_them(
    default: Params, processes: int, accumulate: int, epochs: int, expected: bool
) -> None:
    params = with_values(default, "train", accumulate=accumulate)
    params = with_values(params, "ssl", epochs=epochs)
    assert planner_plan.gradients_are_held(params, processes) == expected
    plan = planner_plan.make_plan(params, None, processes)
    assert ("gradients" in plan.state) == expected
    label = "activations" if expected else "gradients and activations"
    assert f" + {label} " in table(params, plan)


def test_own_people_are_counted_in_the_annotation_files(default: Params, tmp_path: Path) -> None:
    write_mice(tmp_path, "train", 12, unlabelled=4)
    write_mice(tmp_path, "val", 5)
    own = {"source": "local", "root": str(tmp_path), "category": "mouse"}
    own |= {"train_split": "train", "val_split": "val"}
    people = planner_plan.count_people(with_values(default, "data", **own), None)
    assert (people.labelled, people.unlabelled, people.val) == (8, 4, 5)
    half = with_values(default, "data", **own | {"labelled_fraction": 0.5, "unlabelled": ["rest"]})
    people = planner_plan.count_people(half, None)
    assert (people.labelled, people.unlabelled) == (4, 4)
    absent = with_values(default, "data", **own | {"root": str(tmp_path / "absent")})
    with pytest.raises(PoseError, match="absent"):
        planner_plan.count_people(absent, None)


def test_further_sets_are_counted_with_their_weights(default: Params, tmp_path: Path) -> None:
    write_mice(tmp_path / "a", "train", 12, unlabelled=4)
    write_mice(tmp_path / "a", "val", 5)
    write_mice(tmp_path / "b", "train", 7, unlabelled=1)
    entry = {"name": "b", "root": str(tmp_path / "b"), "category": "mouse", "weight": 1.5}
    own = {"source": "local", "root": str(tmp_path / "a"), "category": "mouse", "also": [entry]}
    params = with_values(default, "data", **own, train_split="train", val_split="val")
    people = planner_plan.count_people(params, None)
    assert (people.labelled, people.unlabelled, people.per_epoch) == (8 + 6, 4 + 1, 8 + 9)
    assert people.source == "the annotation files; b"
    counts = {"train": 14, "train_b": 6, "unlabelled": 5, "val_labelled": 5}
    (tmp_path / "summary.json").write_text(json.dumps(counts), encoding="utf-8")
    cached = planner_plan.count_people(params, tmp_path)
    assert replace(cached, source=people.source) == people
    params = with_values(with_values(params, "train", batch_size=2), "ssl", batch_size=2)
    steps = planner_plan.phases(params, people, FLOPS)[0].steps
    assert steps == params.phase1.epochs * (17 // 2)


def test_a_cache_of_a_further_set_is_found(default: Params, tmp_path: Path) -> None:
    """dvc.lock has only the keys that params.yaml names, not their defaults."""
    entry = {"name": "b", "root": "data/own/b"}
    lock = {"stages": {"build_cache": {"params": {"params.yaml": {"data.also": [entry]}}}}}
    (tmp_path / "dvc.lock").write_text(json.dumps(lock), encoding="utf-8")
    params = with_values(default, "data", also=[entry])
    assert planner_plan.built_cache(params, tmp_path) == tmp_path / "data/cache"
    other = with_values(default, "data", also=[entry | {"weight": 2.0}])
    assert planner_plan.built_cache(other, tmp_path) is None


def test_a_cache_of_other_params_is_not_counted(default: Params, tmp_path: Path) -> None:
    """After the default run a recipe of COCO has COCO's people, not the rendered ones."""
    assert planner_plan.built_cache(default, tmp_path) is None
    values = {"data.source": "synthetic", "keypoints": default.keypoints.model_dump(mode="json")}
    values["codec.input_size"] = [*default.codec.input_size]
    lock = {"stages": {"build_cache": {"params": {"params.yaml": values}}}}
    (tmp_path / "dvc.lock").write_text(json.dumps(lock), encoding="utf-8")
    assert planner_plan.built_cache(default, tmp_path) == tmp_path / "data/cache"
    for other in (
        with_values(default, "data", source="coco"),
        with_values(default, "keypoints", oks_sigmas=[0.1] * 17),
    ):
        assert planner_plan.built_cache(other, tmp_path) is None
    assert planner_plan.built_cache(default, stage.ROOT) == stage.ROOT / "data/cache"


# phases

FLOPS = Flops(forward=10, training=30, head_only=14, recomputed=7)


@pytest.fixture(scope="module")
def phased(default: Params) -> Params:
    """16 labelled people per step; 8 unlabelled ones of two paths in stage 2."""
    changes = {
        "train": {"batch_size": 16, "val_persons": 500},
        "phase1": {"epochs": 2},
        "phase2": {"epochs": 7},
        "ssl": {"epochs": 2, "batch_size": 8, "paths": ["joco", "jccm"]},
    }
    for section, values in changes.items():
        default = with_values(default, section, **values)
    return default


def test_steps_and_flops_of_the_phases(phased: Params) -> None:
    """16 labelled people per step; 8 unlabelled ones of 2 forward and 2 training passes each."""
    *training, _ = planner_plan.phases(phased, planner_plan.People(2171, 701, 361, ""), FLOPS)
    assert [(p.name, p.steps) for p in training] == [("phase1", 270), ("phase2", 945), ("ssl", 270)]
    assert [p.flops for p in training] == [
        270 * 16 * 14,
        945 * 16 * 30,
        270 * (16 * 30 + 8 * (20 + 60)),
    ]


def test_nobody_without_keypoints_takes_no_stage_2(phased: Params) -> None:
    people = planner_plan.People(2171, 0, 361, "")
    _, _, ssl, val = planner_plan.phases(phased, people, FLOPS)
    assert (ssl.name, ssl.steps, ssl.flops) == ("ssl", 0, 0)
    assert val.steps == (2 + 7) * 361


def test_paths_ensembles_and_two_networks_cost(phased: Params) -> None:
    """16 labelled and 8 unlabelled people per step; three paths add a forward pass each."""
    params = with_values(phased, "ssl", paths=["jc", "jo", "co"], loss="ensemble", networks=2)
    ssl = planner_plan.phases(params, planner_plan.People(2171, 701, 361, ""), FLOPS)[2]
    assert ssl.flops == 270 * 2 * (16 * 30 + 8 * ((2 + 3) * 10 + 3 * 30))


def test_checkpointing_computes_the_blocks_twice(phased: Params) -> None:
    params = with_values(phased, "model", grad_checkpointing=True)
    head, everything, ssl, _ = planner_plan.phases(
        params, planner_plan.People(160, 8000, 9, ""), FLOPS
    )
    assert head.flops == 20 * 16 * 14
    assert everything.flops == 70 * 16 * 37
    assert (ssl.steps, ssl.flops) == (2000, 2000 * (16 * 37 + 8 * (20 + 74)))


def test_too_few_people_for_a_batch(phased: Params) -> None:
    with pytest.raises(PoseError, match=r"train.batch_size = 16 is more than the 3"):
        planner_plan.phases(phased, planner_plan.People(3, 0, 9, ""), FLOPS)


@pytest.mark.parametrize(
    ("every", "cap", "expected"),
    [(0, 500, 0), (1, 500, 11 * 361), (1, 100, 11 * 100), (2, 500, (1 + 4 + 1) * 361)],
)
def test_validations_are_counted(phased: Params, every: int, cap: int, expected: int) -> None:
    """Phases of 2, 7 and 2 epochs, evaluated every `every` epochs and after the last."""
    params = with_values(phased, "train", val_epochs=every, val_persons=cap)
    *_, val = planner_plan.phases(params, planner_plan.People(2171, 701, 361, ""), FLOPS)
    assert (val.name, val.steps, val.flops) == ("val_AP", expected, expected * 10)


def test_an_ema_takes_memory(phased: Params, example: planner_plan.Plan) -> None:
    params = with_values(phased, "train", ema_decay=0.99)
    model = build_on_meta(model_spec(phased, 17))
    found, without = (planner_plan.state_bytes(p, model, True) for p in (params, phased))
    assert found == without | {"EMA": 4 * count_parameters(model)}
    text = table(params, replace(example, state=example.state | {"EMA": 44 * 10**8}))
    parts = "weights 4.40 + gradients 4.40 + AdamW 8.80 + EMA 4.40 + activations 16.00 = 38.00"
    assert f"memory, GB   {parts}  (batch 16, float32)" in text


# the table


@pytest.fixture
def example() -> planner_plan.Plan:
    steps = {
        ("none", False): StepBytes(((0, 10**9),)),
        ("none", True): StepBytes(((0, 10**8),)),
        ("bf16", False): StepBytes(((2 * 10**9, 5 * 10**8),)),
        ("bf16", True): StepBytes(((10**9, 5 * 10**7),)),
    }
    people = planner_plan.People(160, 16, 9, "counted by hand")
    phases = [planner_plan.Phase("phase2", 10, 7.2e18), planner_plan.Phase("val_AP", 0, 0)]
    state = {"weights": 44 * 10**8, "gradients": 44 * 10**8, "AdamW": 88 * 10**8}
    count = 11 * 10**8
    return planner_plan.Plan(
        10**9, 10**8, FLOPS, people, phases, lambda *key: steps[key], state, count
    )


def table(params: Params, plan: planner_plan.Plan) -> str:
    throughputs = [
        planner_plan.Throughput("GPU x", 80, "bf16", 100, "measured"),
        planner_plan.Throughput("GPU x", 80, "none", 10, "assumed"),
        planner_plan.Throughput("CPU y", None, "none", 0.1, "measured"),
    ]
    return planner_plan.format_plan("x", params, plan, throughputs)


def test_boxes_are_printed_if_there_is_a_cache(
    default: Params, example: planner_plan.Plan, crop_table: CropTable, tmp_path: Path
) -> None:
    (tmp_path / "cache").rename(tmp_path / "train")
    boxes = planner_plan._boxes(default, tmp_path)
    assert boxes is not None
    assert f"\nboxes        {boxes}\n" in table(default, replace(example, boxes=boxes))
    assert "w/h" in boxes
    assert planner_plan._boxes(default, None) is None
    assert planner_plan._boxes(default, tmp_path / "none") is None
    assert "\nboxes" not in table(default, example)


def test_memory_is_the_sum_of_its_parts(phased: Params, example: planner_plan.Plan) -> None:
    text = table(phased, example)
    parts = "weights 4.40 + gradients 4.40 + AdamW 8.80 + activations 16.00 = 33.60"
    assert f"memory, GB   {parts}  (batch 16, float32)" in text
    rows = re.findall(r"^ +batch (\d+)(, grad_checkpointing)? +([\d.]+) +([\d.]+)$", text, re.M)
    assert rows == [
        ("16", "", "33.60", "27.60"),
        ("8", "", "25.60", "23.60"),
        ("16", ", grad_checkpointing", "19.20", "19.40"),
        ("8", ", grad_checkpointing", "18.40", "19.00"),
    ]


def test_hours_and_what_fits(default: Params, example: planner_plan.Plan) -> None:
    text = table(default, example)
    rows = [line.split() for line in text.splitlines() if line.startswith("  GPU x")]
    assert [row[2:5] for row in rows] == [
        ["bf16", "20", "h"],
        ["float32", "200", "h"],
    ]
    assert [row[5:-2] for row in rows] == [["120", "100"], ["=", "8.3", "days", "62", "10"]]
    assert "100 TFLOP/s, measured" in text
    assert "10 TFLOP/s, assumed" in text
    cpu = next(line for line in text.splitlines() if line.startswith("  CPU y"))
    assert "float32       20,000 h = 833 days " in cpu
    assert cpu.endswith("  0.1 TFLOP/s, measured")


@pytest.mark.parametrize(
    ("flops", "expected"),
    [
        (0, "0 TFLOP"),
        (2e10, "0.02 TFLOP"),
        (9.4e14, "940 TFLOP"),
        (1e15, "1.00 PFLOP"),
        (3.2345e16, "32.3 PFLOP"),
        (3.90656e20, "391 EFLOP"),
        (2e21, "2,000 EFLOP"),
    ],
)
def test_flops_have_the_largest_prefix_that_fits(flops: float, expected: str) -> None:
    assert planner_plan._format_flops(flops) == expected


@pytest.mark.parametrize(
    ("hours", "expected"),
    [
        (0.01, "< 0.1 h"),
        (3.32, "3.3 h"),
        (24, "24 h"),
        (48, "48 h = 2.0 days"),
        (366, "366 h = 15 days"),
        (2715, "2,715 h = 113 days"),
    ],
)
def test_long_runs_are_also_in_days(hours: float, expected: str) -> None:
    assert planner_plan._format_hours(hours) == expected


def test_no_batch_fits_if_the_weights_do_not(example: planner_plan.Plan) -> None:
    assert planner_plan.largest_batch(example, "none", False, 17) == 0
    assert planner_plan.largest_batch(example, "none", False, 19) == 1


def test_the_committed_throughputs_state_their_basis() -> None:
    throughputs = planner_plan.read_throughputs(planner_plan.ACHIEVED)
    assert {rate.amp for rate in throughputs} == set(planner_plan.DTYPES)
    assert len({(rate.device, rate.amp) for rate in throughputs}) == len(throughputs)
    assert all(rate.basis.startswith(("measured: ", "assumed: ")) for rate in throughputs)
    for rate in throughputs:
        if rate.basis.startswith("assumed"):
            share, peak = map(float, re.findall(r"(\d+) %.*?([\d.]+)$", rate.basis)[0])
            assert rate.tflops == pytest.approx(share / 100 * peak, rel=0.02)


def test_two_billion_parameters_on_a_laptop() -> None:
    params = apply.resolve(SAPIENS_2B)
    two_billion = planner_plan.make_plan(params, None)
    assert (two_billion.backbone, two_billion.head) == (2_131_943_040, 34_224_401)
    text = table(params, two_billion)
    assert "backbone 2,131,943,040  head 34,224,401" in text
    assert "input 768 x 1024 (w x h)" in text
    assert "149,813 labelled" in text
    assert ", float32, grad_checkpointing)" in text


def test_params_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    plan.main(None)
    text = capsys.readouterr().out
    assert text.startswith("params.yaml: input 72 x 96 (w x h)\n")
    assert all(rate.device in text for rate in planner_plan.read_throughputs(planner_plan.ACHIEVED))


def test_an_unknown_recipe() -> None:
    with pytest.raises(PoseError, match="no recipe 'nosuch'"):
        plan.main("nosuch")
