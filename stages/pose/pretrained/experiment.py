"""The weights of an earlier run, read from DVC by the name of the run."""

from __future__ import annotations

from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.scm import SCMError, resolve_rev

from pose.common.errors import PoseError
from pose.common.files import TEMPORARY, digest, move_into_place
from pose.common.log import log

FINAL_MODEL = "models/ssl.safetensors"


def copy_from_run(file: str, revision: str, folder: Path) -> tuple[Path, str]:
    """Copy `file`, an out of the project's chain, as the run `revision` wrote it, into `folder`.

    revision: name of an experiment, or commit, tag or branch. The content comes from DVC's cache,
    or else from the remote; its md5 must be that in the run's dvc.lock. Returns the path of the
    copy and the run's commit. Raises PoseError if there is no such run or file.
    """
    root = project_root(Path.cwd())
    what = f"weights.revision = {revision!r}, weights.file = {file!r}"
    try:
        with Repo(root) as repo:
            commit = resolve_rev(repo.scm, revision)
        with Repo(root, rev=commit) as repo:
            md5 = _md5(repo, what, file)
            path = folder / f"{md5}{Path(file).suffix}"
            if not (path.is_file() and digest(path, "md5") == md5):
                log(f"{file} of {revision} ({commit[:12]}), md5 {md5}")
                _copy(repo, file, path)
    except SCMError as error:
        advice = f"`dvc exp list` and `git log` in {root} list them"
        raise PoseError(f"params.yaml: {what}: {error}; no such run; {advice}") from None
    except (DvcException, OSError) as error:
        advice = "`dvc exp pull` or `dvc fetch --all-commits` get it from a remote that has it"
        raise PoseError(f"params.yaml: {what}: {error}; {advice}") from None
    if (actual := digest(path, "md5")) != md5:
        path.unlink()
        raise PoseError(
            f"params.yaml: {what}: md5 is {actual}, dvc.lock of the run says {md5}; the copy in "
            "DVC's cache differs from it; `dvc fetch` after deleting that copy, or another run"
        )
    return path, commit


def project_root(folder: Path) -> Path:
    """The project; of the copies that `dvc exp run --temp` works in, the one they were made from.

    Only that one has the names of all experiments.
    """
    before, found, _ = folder.as_posix().partition(TEMPORARY)
    return Path(before) if found else folder


def _md5(repo: Repo, what: str, file: str) -> str:
    """The md5 that the run's dvc.lock has for a file."""
    entries = repo.dvcfs.info(f"/{file}") if repo.dvcfs.exists(f"/{file}") else {}
    out = (entries.get("dvc_info") or {}).get("entry")
    if out is None or out.hash_info is None or entries["type"] != "file":
        raise PoseError(
            f"params.yaml: {what}: that run has no such file in dvc.lock; set weights.file to null "
            f"({FINAL_MODEL}), models/phase2.safetensors or models/phase1.safetensors"
        )
    return str(out.hash_info.value)


def _copy(repo: Repo, file: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    repo.dvcfs.get_file(f"/{file}", str(beside))
    move_into_place(beside, path)
