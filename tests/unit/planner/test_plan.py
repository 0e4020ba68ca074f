"""plan.py: what a run would take, told from shapes alone."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import apply
import plan
from pose.common.errors import PoseError
from pose.common.params import Params
from pose.models import build
from pose.models.vit import build_on_meta
from pose.planner import plan as planner_plan
from pose.planner.count import Flops, Held, count_flops, count_held, count_parameters

SAPIENS_2B = "sapiens_2b_coco_1024x768"


IMAGES = {"unlabelled": ["boxes"], "unlabelled_images": True, "unlabelled_detections": "a.json"}


def forward_flops(params: Params) -> float:
    """Multiply-adds times 2 of patches, blocks and a head of deconvolutions and 1x1s, by hand."""
    model = params.model
    w, h = model.grid_wh(params.codec.input_size)
    tokens, dim = w * h, model.embed_dim
    macs = tokens * 3 * model.patch_size**2 * dim
    macs += model.depth * (12 * tokens * dim**2 + 2 * tokens**2 * dim)
    cells, channels = tokens, dim
    for out in model.deconv_channels:  # each input cell writes 4 x 4 cells
        macs += cells * channels * out * 16
        cells, channels = cells * 4, out
    for out in (*model.conv_channels, 17):
        macs += cells * channels * out
        channels = out
    return 2 * macs


def bent(params: Params, section: str, **values: object) -> Params:
    raw = json.loads(params.model_dump_json())
    raw[section] |= values
    return Params.model_validate_json(json.dumps(raw))


@pytest.fixture(scope="module")
def default() -> Params:
    return apply.load_params(apply.PARAMS)


@pytest.mark.parametrize("name", [n for n in apply.names() if not n.startswith("ssl_")])
def test_a_recipe_is_planned(name: str) -> None:
    params = apply.resolve(name)
    spec, model = build.model_spec(params, 17), params.model
    forward = count_flops(spec).forward
    assert forward == pytest.approx(forward_flops(params), rel=0.01)
    numbers, held = count_parameters(build_on_meta(spec)), count_held(spec, "none")
    header = (apply.RECIPES / f"{name}.yaml").read_text(encoding="utf-8").split("\n\n")[0]
    header = " ".join(header.replace("\n#", " ").split())
    need = 16 * numbers + held.fixed + held.sample * params.train.batch_size
    assert f"by count (stages/plan.py) {need / 1e9:.0f} GB" in header
    factor, epochs = 4 if model.grad_checkpointing else 3, params.phase2.epochs
    assert f"{factor} x {forward / 1e9:,.1f} GFLOP x 149,813 persons x {epochs}" in header
    hours = factor * forward * 149_813 * epochs / 3e14 / 3600
    assert f"would take {hours:,.0f} GPU hours at an assumed 300 TFLOP/s" in header


def test_the_dials_only_ever_save(default: Params) -> None:
    held = planner_plan.plan(default, None).held
    for amp in ("none", "bf16"):
        assert held[amp, True].sample < held[amp, False].sample
    for on in (False, True):
        assert 0.5 < held["bf16", on].sample / held["none", on].sample < 0.7


# persons


def test_a_built_cache_is_counted(tmp_path: Path, default: Params) -> None:
    summary = {"train": 40, "unlabelled": 8, "val": 7, "val_labelled": 6, "bad_records": 0}
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    assert planner_plan.persons(default, tmp_path) == planner_plan.Persons(40, 8, 6, "data/cache")


def test_without_a_cache_the_default_is_known(tmp_path: Path, default: Params) -> None:
    """The numbers are those that the committed run rendered."""
    path = planner_plan.ACHIEVED.parents[1] / "metrics" / "build_cache" / "metrics.json"
    counts = json.loads(path.read_text(encoding="utf-8"))
    for found in (planner_plan.persons(default, None), planner_plan.persons(default, tmp_path)):
        assert (found.labelled, found.unlabelled, found.val) == (
            counts["train"],
            counts["unlabelled"],
            counts["val_labelled"],
        )


def test_rendered_persons_go_with_their_params(default: Params) -> None:
    more = bent(default, "synthetic", train_images=3800, unlabelled_fraction=0.5, val_images=120)
    found = planner_plan.persons(more, None)
    assert (found.labelled, found.unlabelled, found.val) == (2895, 2804, 180)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"labelled_persons": 1000, "unlabelled": ["rest"]}, (1000, 148_813)),
        ({"labelled_fraction": 0.5, "unlabelled": ["boxes", "rest"]}, (74_906, 187_907)),
        (IMAGES, (149_813, 387_000)),
    ],
)
def test_persons_are_those_that_data_asks_for(default: Params, data: dict, expected) -> None:
    found = planner_plan.persons(bent(default, "data", source="coco", **data), None)
    assert (found.labelled, found.unlabelled) == expected


def test_a_second_network_takes_memory_too(default: Params) -> None:
    two = bent(default, "ssl", networks=2, ema_decay=0.9)
    assert sum(planner_plan.state_bytes(two).values()) == 2 * (16 + 4)


def test_nobody_knows_local_persons(default: Params) -> None:
    local = bent(default, "data", source="local", root="/data/mine")
    with pytest.raises(PoseError, match=r"data.source = 'local', .*dvc repro build_cache"):
        planner_plan.persons(local, None)


# phases

FLOPS = Flops(forward=10, training=30, frozen=14, recomputed=7)


def test_steps_and_flops_of_the_phases(default: Params) -> None:
    """16 labelled a step; 8 unlabelled ones at 2 forward and 2 of training each."""
    *found, _ = planner_plan.phases(default, planner_plan.Persons(2171, 701, 361, ""), FLOPS)
    assert [(p.name, p.steps) for p in found] == [("phase1", 270), ("phase2", 945), ("ssl", 270)]
    assert [p.flops for p in found] == [
        270 * 16 * 14,
        945 * 16 * 30,
        270 * (16 * 30 + 8 * (20 + 60)),
    ]


def test_paths_ensembles_and_two_networks_cost(default: Params) -> None:
    """16 labelled and 8 unlabelled a step, three paths: their forwards come twice."""
    params = bent(default, "ssl", paths=["jc", "jo", "co"], loss="ensemble", networks=2)
    ssl = planner_plan.phases(params, planner_plan.Persons(2171, 701, 361, ""), FLOPS)[2]
    assert ssl.flops == 270 * 2 * (16 * 30 + 8 * ((2 + 3) * 10 + 3 * 30))


def test_checkpointing_computes_the_blocks_twice(default: Params) -> None:
    params = bent(default, "model", grad_checkpointing=True)
    head, everything, ssl, _ = planner_plan.phases(
        params, planner_plan.Persons(160, 8000, 9, ""), FLOPS
    )
    assert head.flops == 20 * 16 * 14
    assert everything.flops == 70 * 16 * 37
    assert (ssl.steps, ssl.flops) == (2000, 2000 * (16 * 37 + 8 * (20 + 74)))


def test_too_few_persons_are_told(default: Params) -> None:
    with pytest.raises(PoseError, match=r"train.batch_size = 16, but .* 3"):
        planner_plan.phases(default, planner_plan.Persons(3, 0, 9, ""), FLOPS)


@pytest.mark.parametrize(
    ("every", "cap", "expected"),
    [(0, 500, 0), (1, 500, 11 * 361), (1, 100, 11 * 100), (2, 500, (1 + 4 + 1) * 361)],
)
def test_validations_are_counted(default: Params, every: int, cap: int, expected: int) -> None:
    """Of 2, 7 and 2 epochs: every so many, and after the last."""
    params = bent(default, "train", val_epochs=every, val_persons=cap)
    *_, found = planner_plan.phases(params, planner_plan.Persons(2171, 701, 361, ""), FLOPS)
    assert (found.name, found.steps, found.flops) == ("val_AP", expected, expected * 10)


def test_an_average_takes_memory_too(default: Params, made_up: planner_plan.Plan) -> None:
    params = bent(default, "train", ema_decay=0.99)
    assert planner_plan.state_bytes(params) == planner_plan.state_bytes(default) | {"average": 4}
    said = table(params, replace(made_up, state=20))
    parts = "weights 4.40 + gradients 4.40 + AdamW 8.80 + average 4.40 + activations 16.00 = 38.00"
    assert f"memory, GB   {parts}  (batch 16, float32)" in said


# the table


@pytest.fixture
def made_up() -> planner_plan.Plan:
    held = {
        ("none", False): Held(10**9, 0),
        ("none", True): Held(10**8, 0),
        ("bf16", False): Held(5 * 10**8, 2 * 10**9),
        ("bf16", True): Held(5 * 10**7, 10**9),
    }
    people = planner_plan.Persons(160, 16, 9, "counted by hand")
    phases = [planner_plan.Phase("phase2", 10, 7.2e18), planner_plan.Phase("val_AP", 0, 0)]
    return planner_plan.Plan(10**9, 10**8, FLOPS, people, phases, held)


def table(params: Params, found: planner_plan.Plan) -> str:
    rates = [
        planner_plan.Rate("GPU x", 80, "bf16", 100, "measured"),
        planner_plan.Rate("GPU x", 80, "none", 10, "assumed"),
        planner_plan.Rate("CPU y", None, "none", 0.1, "measured"),
    ]
    return planner_plan.report("x", params, found, rates)


def test_memory_is_the_sum_of_its_parts(default: Params, made_up: planner_plan.Plan) -> None:
    said = table(default, made_up)
    parts = "weights 4.40 + gradients 4.40 + AdamW 8.80 + activations 16.00 = 33.60"
    assert f"memory, GB   {parts}  (batch 16, float32)" in said
    rows = re.findall(r"^ +batch (\d+)(, grad_checkpointing)? +([\d.]+) +([\d.]+)$", said, re.M)
    assert rows == [
        ("16", "", "33.60", "27.60"),
        ("8", "", "25.60", "23.60"),
        ("16", ", grad_checkpointing", "19.20", "19.40"),
        ("8", ", grad_checkpointing", "18.40", "19.00"),
    ]


def test_hours_and_what_fits(default: Params, made_up: planner_plan.Plan) -> None:
    said = table(default, made_up)
    rows = [line.split() for line in said.splitlines() if line.startswith("  GPU x")]
    assert [row[2:5] for row in rows] == [["bf16", "20", "120"], ["float32", "200", "62"]]
    assert "100 TFLOP/s, measured" in said
    assert "10 TFLOP/s, assumed" in said
    cpu = next(line for line in said.splitlines() if line.startswith("  CPU y"))
    assert cpu.split()[2:6] == ["float32", "20,000", "0.1", "TFLOP/s,"]


def test_nothing_fits_where_the_weights_do_not(made_up: planner_plan.Plan) -> None:
    assert planner_plan.largest_batch(made_up, "none", False, 17) == 0
    assert planner_plan.largest_batch(made_up, "none", False, 19) == 1


def test_the_committed_rates_tell_their_basis() -> None:
    rates = planner_plan.read_rates(planner_plan.ACHIEVED)
    assert {rate.amp for rate in rates} == set(planner_plan.TYPES)
    assert len({(rate.device, rate.amp) for rate in rates}) == len(rates)
    assert all(rate.basis.startswith(("measured: ", "assumed: ")) for rate in rates)
    for rate in rates:
        if rate.basis.startswith("assumed"):
            share, peak = map(float, re.findall(r"(\d+) %.*?([\d.]+)$", rate.basis)[0])
            assert rate.tflops == pytest.approx(share / 100 * peak, rel=0.02)


def test_two_billion_parameters_on_a_laptop() -> None:
    params = apply.resolve(SAPIENS_2B)
    found = planner_plan.plan(params, None)
    assert (found.backbone, found.head) == (2_131_943_040, 34_224_401)
    said = table(params, found)
    assert "backbone 2,131,943,040  head 34,224,401" in said
    assert "input 768 x 1024 (w x h)" in said
    assert "149,813 labelled" in said
    assert ", float32, grad_checkpointing)" in said


def test_params_as_they_are(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["plan.py"])
    plan.main()
    said = capsys.readouterr().out
    assert said.startswith("params.yaml: input 72 x 96 (w x h)\n")
    assert all(rate.device in said for rate in planner_plan.read_rates(planner_plan.ACHIEVED))


def test_an_unknown_recipe(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["plan.py", "nosuch"])
    with pytest.raises(PoseError, match="no recipe 'nosuch'"):
        plan.main()
