"""The commands of README.md, CONTRIBUTING.md and docs/, typed in a clone of a clone, shrunken.

Its tree has been used: an experiment was run there. tests/commands.py reads the pages and says
which commands are marked as needing a GPU, a network or hours; those are not typed. Blocks of
docs/experiments.md are typed in order in test_chain.py and test_merge.py, the row of docs/README.md
with adapters in test_finetune.py.
"""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
import zipfile
from pathlib import Path

import pytest

from commands import PAGES, ROOT, Block, read_blocks
from pipeline import test_chain, test_finetune, test_merge, test_registry
from pipeline.preloaded_python import python_folder
from pipeline.project import FirstRun, Project, ran, succeeded

ELSEWHERE = {test_chain.FIRST, *test_chain.BLOCKS, test_merge.BLOCK, *test_registry.BLOCKS}
IDENTITY = [
    f"export GIT_{role}_{key}"
    for role in ("AUTHOR", "COMMITTER")
    for key in ("NAME=test", "EMAIL=test@example.org")
]
SHELL = "\n".join(["unset MAKELEVEL MAKEFLAGS MFLAGS", *IDENTITY, ""])


def blocks_by_page() -> dict[Path, list[Block]]:
    """What is typed here; of blocks and rows with the same commands the first."""
    found: dict[Path, list[Block]] = {}
    seen = {"", test_finetune.COMMAND}
    for page in PAGES:
        for block in read_blocks(page):
            if block.text not in ELSEWHERE and block.typed() not in seen:
                seen.add(block.typed())
                found.setdefault(page, []).append(block)
    return found


TYPED = blocks_by_page()


@pytest.fixture(scope="module")
def used(first_run: FirstRun, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone of a clone, with data from a DVC remote, after an experiment without stage 2."""
    folder = tmp_path_factory.mktemp("used")
    origin = first_run.project.copy(folder)
    origin.must("dvc", "remote", "add", "--default", "lab", str(folder / "remote"))
    origin.commit("DVC remote")
    origin.must("dvc", "push")
    hub = folder / "hub.git"
    origin.must("git", "clone", "--quiet", "--bare", ".", str(hub))
    clone = Project(folder / "a clone" / "pose")
    origin.must("git", "clone", "--quiet", str(hub), str(clone.root))
    clone.must("git", "config", "user.name", "test")
    clone.must("git", "config", "user.email", "test@example.org")
    clone.must("dvc", "pull")
    assert "up to date" in clone.must("dvc", "status")
    write_inputs(clone.root)
    clone.must("dvc", "exp", "run", "--name", "earlier", "-S", "ssl.epochs=0")
    return clone


def with_environment(project: Project) -> Project:
    """The project, with a .venv that make and `activate` take: the tests' own Python and DVC."""
    folder = project.root / ".venv"
    (folder / "bin").mkdir(parents=True)
    for name in ("python", "dvc"):
        (folder / "bin" / name).symlink_to(Path(python_folder()) / name)
    (folder / "bin/activate").write_text(f"PATH={shlex.quote(str(folder / 'bin'))}:$PATH\n")
    for stamp in ("ready", "ready-dev"):
        (folder / stamp).touch()
    return project


def write_inputs(root: Path) -> None:
    """The pictures and files that docs/predict.md names, from the rendered val split."""
    data = root / "data/coco"
    with zipfile.ZipFile(data / "val2017.zip") as archive:
        archive.extractall(root)
    (annotations,) = data.glob("annotations*.zip")
    with zipfile.ZipFile(annotations) as archive:
        name = next(n for n in archive.namelist() if n.endswith("person_keypoints_val2017.json"))
        (root / Path(name).name).write_bytes(archive.read(name))
    (root / "crops").mkdir()
    shutil.copy(next((root / "val2017").glob("*.jpg")), root / "crops")


def type_in(project: Project, block: str) -> str:
    """Standard output of commands that have to succeed, each of them."""
    return succeeded(project.run("bash", "-euo", "pipefail", "-c", SHELL + block)).stdout


@pytest.mark.parametrize("page", TYPED, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_work(page: Path, used: Project, tmp_path: Path) -> None:
    project = with_environment(used.copy(tmp_path))
    for block in TYPED[page]:
        project.must("git", "checkout", "--quiet", "params.yaml")  # a recipe, or a run's values
        type_in(project, block.typed())


def blocks_that_name(page: str, word: str) -> list[Block]:
    return [block for block in read_blocks(ROOT / page) if word in block.text]


def test_a_job_of_a_slurm_array_brings_its_result_back(used: Project, tmp_path: Path) -> None:
    """The script of docs/scaling.md, on a CPU, from a clean tree."""
    (block,) = blocks_that_name("docs/scaling.md", "SLURM_ARRAY_TASK_ID")
    project = with_environment(used.copy(tmp_path))
    project.must("git", "checkout", "--quiet", ".")
    project.must("dvc", "checkout")
    of_slurm = {"SUBMIT_DIR": str(project.root), "ARRAY_TASK_ID": "1"}
    variables = [f"export SLURM_{key}={shlex.quote(value)}" for key, value in of_slurm.items()]
    with tempfile.TemporaryDirectory() as job:  # tmp_path may be too long for sockets
        script = "\n".join([*variables, f"export TMPDIR={job}", block.text])
        output = type_in(project, script.replace("NPROC=8", "NPROC=1"))
    assert ran(output) == test_chain.FROM_TRAINING_ON
    (name,) = re.findall(r"^Ran experiment\(s\): (\S+)$", output, re.M)
    project.must("dvc", "exp", "pull", ".", name)
    project.must("dvc", "exp", "apply", name)
    assert ran(project.must("dvc", "repro")) == []
    assert project.params()["train"]["lr"] == 5e-4
