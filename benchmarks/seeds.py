"""Run the embedded default with several seeds and tabulate AP of each model and setting.

    python benchmarks/seeds.py [--seeds 0 1 2]

Each seed changes run.seed and synthetic.seed (weights, shuffling, augmentation and the people),
runs `dvc repro` in a temporary copy of the checkout, and reads its ablation table. The copies use
the checkout's DVC cache, so stages that ran before are not run again. Writes benchmarks/seeds.md.
Takes about five minutes per seed on two cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = [("argmax", False), ("dark", False), ("argmax", True), ("dark", True)]


def main() -> None:
    """Run the chain for each seed and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    tables = pd.concat([run_seed(seed) for seed in seeds])
    (ROOT / "benchmarks" / "seeds.md").write_text(to_markdown(tables, seeds))


def run_seed(seed: int) -> pd.DataFrame:
    """The ablation table of one seed, with a column `seed`."""
    with tempfile.TemporaryDirectory(prefix="seeds-") as folder:
        project = Path(folder) / "project"
        files = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
        for name in filter(None, files.split("\0")):
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, project / name)
        subprocess.run(["git", "init", "-q"], cwd=project, check=True)
        identity = ["-c", "user.name=seeds", "-c", "user.email=seeds@localhost"]
        commit = ["git", *identity, "commit", "-q", "--allow-empty", "-m", "empty"]
        subprocess.run(commit, cwd=project, check=True)
        cache = ["cache", "dir", "--local", str(ROOT / ".dvc" / "cache")]
        set_seed(project / "params.yaml", seed)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for command in (cache, ["repro"]):
            subprocess.run(
                [sys.executable, "-m", "dvc", *command],
                cwd=project,
                env={**os.environ, "PATH": path},
                check=True,
            )
        table = pd.read_csv(project / "metrics" / "evaluate" / "ablation.csv")
    return table.assign(seed=seed)


def set_seed(path: Path, seed: int) -> None:
    """Write the seed to params.yaml, without changing comments."""
    yaml = YAML()
    params = yaml.load(path)
    params["run"]["seed"] = params["synthetic"]["seed"] = seed
    yaml.dump(params, path)


def to_markdown(tables: pd.DataFrame, seeds: list[int]) -> str:
    """AP / AP50 of each model and setting, one column per seed, and the mean."""
    listed = " ".join(map(str, seeds))
    lines = [
        "# The embedded default over seeds",
        "",
        f"AP / AP50 on held-out rendered people, by `python benchmarks/seeds.py --seeds {listed}`.",
        "Each seed renders its own people and trains its own weights.",
        "",
        "| model | decoder | flip | " + " | ".join(f"seed {s}" for s in seeds) + " | mean |",
        "|---" * (len(seeds) + 4) + "|",
    ]
    for model in ("phase1", "phase2", "ssl"):
        for decoder, flip in SETTINGS:
            rows = tables.query("model == @model and decoder == @decoder and flip == @flip")
            cells = [f"{ap:.3f} / {ap50:.3f}" for ap, ap50 in zip(rows.AP, rows.AP50, strict=True)]
            cells.append(f"{rows.AP.mean():.3f} / {rows.AP50.mean():.3f}")
            lines.append(
                f"| {model} | {decoder} | {'yes' if flip else 'no'} | {' | '.join(cells)} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
