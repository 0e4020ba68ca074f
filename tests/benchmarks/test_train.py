"""benchmarks/train.py on a CPU: its parts, and a run of a shrunken model."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import torch

import apply
import contenders
import results
import timing
import train
from pose.common.errors import PoseError
from pose.common.params import Params
from pose.models.spec import model_spec
from pose.planner import count, plan

RESOLVED = apply.resolve("vitpose_b_coco_256x192")


def shrunken(**model: object) -> Params:
    raw = json.loads(RESOLVED.model_dump_json())
    raw["model"] |= {"embed_dim": 32, "depth": 2, "num_heads": 2, "deconv_channels": [8, 8]}
    raw["model"] |= model
    raw["codec"] |= {"input_size": [48, 64], "heatmap_size": [12, 16]}
    return Params.model_validate_json(json.dumps(raw))


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The benchmark uses a tiny model and writes this page."""
    rates = tmp_path / "achieved.csv"
    rates.write_text(plan.ACHIEVED.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(train, "PAGE", tmp_path / "train.md")
    monkeypatch.setattr(train, "RATES", rates)
    monkeypatch.setattr(timing, "MATMUL", {"cpu": [64]})
    monkeypatch.setattr(apply, "resolve", lambda name: shrunken())
    return tmp_path / "train.md"


def run(page: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    train.main()
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_a_run_writes_its_section_and_its_rate(page: Path, monkeypatch, amp: str) -> None:
    """Theirs is a second model of ours, because transformers is not installed here."""
    monkeypatch.setattr(train, "theirs", train.ours)
    text = run(page, monkeypatch, "--amp", amp, "--batch", "2", "--pairs", "2")
    label = {"none": "float32", "bf16": "bf16"}[amp]
    assert text.count("\n## ") == 1
    assert f"`python benchmarks/train.py --amp {amp} --batch 2 --pairs 2`" in text
    assert "### vitpose_b_coco_256x192: 64 x 48 (h x w), batch 2\n" in text
    for row in ("training step, theirs over ours", "roofline share", "flip test, img/s"):
        assert f"\n| {row} | " in text
    assert "| matrix products | " in text
    assert "| share of the profiled step | ours | theirs |" in text
    rates = plan.read_throughputs(train.RATES)
    assert len(rates) == len({(rate.device, rate.amp) for rate in rates})
    here = results.device_name(torch.device("cpu"))
    (mine,) = [rate for rate in rates if (rate.device, rate.amp) == (here, amp)]
    assert mine.basis == "measured: vitpose_b_coco_256x192, batch 2"
    assert mine.tflops > 0
    again = run(page, monkeypatch, "--amp", amp, "--batch", "2", "--pairs", "1")
    assert again.count("\n## ") == 1
    assert again.count(f", {label}\n") == 1


def test_without_transformers_ours_is_measured_alone(
    page: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    wide = shrunken(deconv_channels=[256, 256])  # the only ones that transformers has
    monkeypatch.setattr(apply, "resolve", lambda name: wide)
    text = run(page, monkeypatch, "--batch", "1", "--pairs", "1")
    assert "only ours is measured; `--help` says" in capsys.readouterr().out
    assert "theirs" not in text
    assert "| training, img/s | " in text


def test_a_gpu_must_be_there(monkeypatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    monkeypatch.setattr(sys, "argv", ["train.py", "--device", "cuda"])
    with pytest.raises(PoseError, match="--device cuda: torch finds no GPU"):
        train.main()


def test_a_batch_for_a_gpu_is_what_fits(monkeypatch) -> None:
    """MEMORY_SHARE of the free memory, less the training state, in samples."""
    params = shrunken()
    spec = model_spec(params, 17)
    step = count.count_step_bytes(spec, "none", held=True)
    state = 16 * count.count_parameters(count.build_on_meta(spec))
    setting = contenders.Setting(torch.device("cuda"), "none", 1, None)
    for fits, expected in ((7, 7), (10**6, train.MAX_BATCH)):
        free = (state + step.at(fits) + 1) / train.MEMORY_SHARE
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, n=free: (n, n))
        assert train.chosen_batch(params, setting) == expected
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (state, state))
    with pytest.raises(PoseError, match="does not fit one sample"):
        train.chosen_batch(params, setting)


def test_transformers_has_only_the_classic_head() -> None:
    assert (
        contenders.huggingface_vitpose(shrunken(head="sapiens", deconv_channels=[256, 256])) is None
    )


def test_ratios_are_theirs_over_ours() -> None:
    assert results.ratios(timing.Seconds([2.0, 4.0], [3.0, 4.0])) == [1.5, 1.0]
    assert results.median_range([1.5, 1.0, 1.1]) == "1.10 (1.00 to 1.50)"


def test_a_section_replaces_the_one_of_the_same_title() -> None:
    page = "# Training speed\n\nhead\n"
    for part in ("## a, bf16\n\none\n", "## b, bf16\n\ntwo\n", "## a, bf16\n\nthree\n"):
        page = results.with_section(page, part)
    assert page == "# Training speed\n\nhead\n\n## b, bf16\n\ntwo\n\n## a, bf16\n\nthree\n"


def test_rates_are_written_as_they_are_read(tmp_path: Path) -> None:
    rates = [
        *plan.read_throughputs(plan.ACHIEVED),
        plan.Throughput("CPU, x", None, "none", 0.05, "measured: y"),
    ]
    results.write_rates(tmp_path / "rates.csv", rates)
    assert plan.read_throughputs(tmp_path / "rates.csv") == rates
    new = plan.Throughput("NVIDIA H200", 141, "bf16", 450, "measured: z")
    changed = results.with_rate(rates, new)
    assert [rate for rate in changed if rate not in rates] == [new]
    assert len(changed) == len(rates)


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fakes torch.cuda's functions; returns their calls in order."""
    calls: list[str] = []
    answers = {
        "synchronize": None,
        "reset_peak_memory_stats": None,
        "memory_allocated": 100,
        "max_memory_allocated": 350,
        "get_device_name": "GPU x",
        "get_device_properties": types.SimpleNamespace(total_memory=80.4e9),
    }
    for name, answer in answers.items():

        def fake(device: object, name: str = name, answer: object = answer) -> object:
            calls.append(name)
            return answer

        monkeypatch.setattr(torch.cuda, name, fake)
    return calls


def test_a_gpu_is_waited_for_and_its_peak_read(fake_gpu: list[str]) -> None:
    device = torch.device("cuda")
    assert timing.memory_of(lambda: fake_gpu.append("step"), device) == 250
    assert fake_gpu == [
        "step",
        "synchronize",
        "reset_peak_memory_stats",
        "memory_allocated",
        "step",
        "max_memory_allocated",
    ]
    fake_gpu.clear()
    seconds, wall = timing.timed(lambda: fake_gpu.append("step"), device)
    assert fake_gpu == ["synchronize", "step", "synchronize"]
    assert wall >= 0
    assert seconds >= 0


def test_a_gpu_is_named_as_torch_does(fake_gpu: list[str]) -> None:
    """Its row has the data sheet's gigabytes; the rate is the median pair's."""
    setting = contenders.Setting(torch.device("cuda"), "bf16", 3, 4)
    assert results.title(setting) == "GPU x, bf16"
    case = contenders.Case("some recipe", shrunken(), 4, setting)
    flops = 4 * count.count_flops(model_spec(case.params, 17)).training
    seconds = timing.Seconds([flops / 1e12, flops / 2e12, flops / 9e12], [])
    result = timing.Result(case, seconds, seconds, seconds, [4e12], {"ours": 250}, {"ours": {}})
    expected = plan.Throughput("GPU x", 80, "bf16", 2.0, "measured: some recipe, batch 4")
    assert results.rate_of(result) == expected
    assert "| roofline share | 0.50 (0.25 to 2.25) |" in list(results.case_lines(result))
