"""The chain with adapters: small files, evaluated, exported and gone on from by experiment."""

from __future__ import annotations

import shlex

import numpy as np
import onnxruntime
import torch

from pipeline.project import Project, ran
from pose.models.checkpoint import read_base, read_own, read_weights

COMMAND = "dvc exp run -S train.finetune=lora"  # of docs/README.md


def test_an_experiment_with_adapters(project: Project) -> None:
    whole = (project.root / "models/ssl.safetensors").stat().st_size
    assert f"| `{COMMAND}` |" in (project.root / "docs/README.md").read_text(encoding="utf-8")
    output = project.must(*shlex.split(COMMAND), "--name", "adapters", "-S", "lora.rank=1")
    assert ran(output) == ["train_phase1", "train_phase2", "train_ssl", "evaluate", "report"]
    path = project.root / "models/ssl.safetensors"
    assert path.stat().st_size < 0.5 * whole  # the head alone is a quarter of this model
    assert {name.split(".")[0] for name in read_own(path)} == {"backbone", "head"}
    assert read_base(path).file == "data/weights/start.safetensors"
    _exports(project, path)
    _goes_on(project)
    _refuses_another_base(project)


def _exports(project: Project, path) -> None:
    project.must("python", "stages/export.py", "--out", "exported")
    out = project.root / "exported"
    exported = read_own(out / "model.safetensors")
    merged = read_weights(path)
    assert exported.keys() == merged.keys()
    assert all(torch.equal(tensor, merged[name]) for name, tensor in exported.items())
    session = onnxruntime.InferenceSession(out / "model.onnx")
    (maps,) = session.run(None, {"images": np.zeros((1, 3, 96, 72), np.float32)})
    assert maps.shape == (1, 17, 48, 36)
    assert (out / "adapter/adapter_model.safetensors").is_file()


def _goes_on(project: Project) -> None:
    """Another run starts from adapter and base, merged."""
    expected = read_weights(project.root / "models/ssl.safetensors")
    project.set(**{"weights.source": "experiment", "weights.revision": "adapters"})
    project.set(**{"weights.head": "keep"})
    project.must_stage("fetch_weights")
    found = read_own(project.root / "data/weights/start.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def _refuses_another_base(project: Project) -> None:
    """The start weights are now others than those that models/ was trained on."""
    done = project.stage("evaluate")
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert "holds only what was trained and needs data/weights/start.safetensors of sha256" in line
