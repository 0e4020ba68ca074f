"""Files of the Hugging Face Hub, pinned and verified.

Nothing here reads what it fetches. Trouble is a PoseError of one line that ends in the next step.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import httpx2
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub import errors as hub

from pose.common.errors import PoseError
from pose.common.files import digest
from pose.fetch.errors import describe_error, describe_status, first_line, require_disk_space

LOGIN = "`hf auth login` or HF_TOKEN"
HUB_TROUBLE: tuple[tuple[type[Exception], str], ...] = (  # the first that fits
    (
        hub.OfflineModeIsEnabled,
        "not in the cache {cache}, and HF_HUB_OFFLINE is set; unset it or fill the cache",
    ),
    (hub.GatedRepoError, "weights.repo is gated; accept its terms at {page}, then " + LOGIN),
    (hub.RevisionNotFoundError, "no such weights.revision; correct it (commit, tag or branch)"),
    (hub.EntryNotFoundError, "no such weights.file at this revision; correct its path"),
    (
        hub.RepositoryNotFoundError,
        "no such weights.repo, or private; correct it, or " + LOGIN,
    ),
    (hub.FileMetadataError, "the answer is not a Hub's; check HF_ENDPOINT and the proxy"),
    (hub.HFValidationError, "{error}; correct weights.repo"),
)
HUB_STATUS = {
    401: "HTTP 401: weights.repo is private or the token not accepted; " + LOGIN,
    403: "HTTP 403: not allowed; " + LOGIN,
    404: "HTTP 404: not found; correct weights.repo, weights.revision or weights.file",
}


def download_from_hub(repo: str, file: str, revision: str, sha256: str | None) -> tuple[Path, str]:
    """Path in the Hub's cache and commit of a file; what the cache holds needs no connection.

    HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE count as they were when Python started.
    A connection lost is taken up again within the call; the library keeps no partial file for the
    next. Raises PoseError that names the key of params.yaml to look at.
    """
    what = f"{constants.ENDPOINT}: {repo}/{file} at {revision}"
    path = _hub_path(what, repo, file, revision)
    _check_hub_file(what, path, sha256)
    return path, path.parents[len(PurePosixPath(file).parts) - 1].name  # snapshots/<commit>/<file>


def _hub_path(what: str, repo: str, file: str, revision: str) -> Path:
    size = None
    try:
        plan = hf_hub_download(repo, file, revision=revision, dry_run=True)
        size = plan.file_size if plan.will_download else None
        require_disk_space(what, size or 0, Path(constants.HF_HUB_CACHE))
        return Path(hf_hub_download(repo, file, revision=revision))
    except (OSError, ValueError, RuntimeError, httpx2.HTTPError, hub.XetDownloadError) as error:
        if isinstance(error, httpx2.TransportError):  # for most, not all, the library did this
            cached = try_to_load_from_cache(repo, file, revision=revision)
            if isinstance(cached, str):
                return Path(cached)
        raise PoseError(f"{what}: {_hub_trouble(error, repo, size)}") from None


def _check_hub_file(what: str, path: Path, sha256: str | None) -> None:
    found = digest(path) if sha256 else None
    if found != sha256:
        raise PoseError(
            f"{what}: sha256 is {found}, weights.sha256 says {sha256}; correct weights.revision or "
            f"weights.sha256, or delete {path.resolve()} if that copy is damaged"
        )


def _hub_trouble(error: Exception, repo: str, size: int | None) -> str:
    """What is wrong and what to do, for all that hf_hub_download raises."""
    if isinstance(error, hub.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # why the Hub was of no help, beside the cache that lacks the file
    page, cache = f"{constants.ENDPOINT}/{repo}", constants.HF_HUB_CACHE
    for kind, text in HUB_TROUBLE:
        if isinstance(error, kind):
            return text.format(page=page, cache=cache, error=first_line(error))
    if isinstance(error, hub.HfHubHTTPError):
        status = error.response.status_code
        return HUB_STATUS.get(status) or describe_status(status)
    return describe_error(error, size)
