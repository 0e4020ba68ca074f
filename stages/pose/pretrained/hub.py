"""Download files from the Hugging Face Hub and verify their sha256, without reading them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import httpx2
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub import errors as hub

from pose.common.errors import PoseError
from pose.common.files import digest
from pose.fetch.errors import describe_error, describe_status, first_line, require_disk_space

LOGIN = "`hf auth login` or HF_TOKEN"
HUB_ERRORS: tuple[tuple[type[Exception], str], ...] = (  # the first match counts
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
    (hub.FileMetadataError, "the answer is not from a Hub; check HF_ENDPOINT and the proxy"),
    (hub.HFValidationError, "{error}; correct weights.repo"),
)
HUB_STATUS = {
    401: "HTTP 401: weights.repo is private or the token is invalid; " + LOGIN,
    403: "HTTP 403: access denied; " + LOGIN,
    404: "HTTP 404: not found; correct weights.repo, weights.revision or weights.file",
}


def download_from_hub(repo: str, file: str, revision: str, sha256: str | None) -> tuple[Path, str]:
    """Download a file; returns its path in the Hub's cache and its commit.

    A file in the cache needs no connection. HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are
    read when Python starts. A lost connection is resumed within the call, but the library stores no
    partial file for the next call. Raises PoseError of one line that names the key of params.yaml.
    """
    what = f"{constants.ENDPOINT}: {repo}/{file} at {revision}"
    path = _download_path(what, repo, file, revision)
    _require_sha256(what, path, sha256)
    return path, path.parents[len(PurePosixPath(file).parts) - 1].name  # snapshots/<commit>/<file>


def find_on_hub(repo: str, file: str, revision: str) -> str:
    """Where a file is: in the Hub's cache, or at the Hub. Raises PoseError if it is not there."""
    try:
        found = hf_hub_download(repo, file, revision=revision, dry_run=True)
        return f"{repo}/{file} at {found.commit_hash}, {found.file_size:,} bytes"
    except (OSError, ValueError, RuntimeError, httpx2.HTTPError) as error:
        if isinstance(cached := try_to_load_from_cache(repo, file, revision=revision), str):
            return f"{cached}, downloaded"
        what = f"{constants.ENDPOINT}: {repo}/{file} at {revision}"
        raise PoseError(f"{what}: {_describe_hub_error(error, repo, None)}") from None


def _download_path(what: str, repo: str, file: str, revision: str) -> Path:
    size = None
    try:
        plan = hf_hub_download(repo, file, revision=revision, dry_run=True)
        size = plan.file_size if plan.will_download else None
        require_disk_space(what, size or 0, Path(constants.HF_HUB_CACHE))
        return Path(hf_hub_download(repo, file, revision=revision))
    except (OSError, ValueError, RuntimeError, httpx2.HTTPError, hub.XetDownloadError) as error:
        if isinstance(error, httpx2.TransportError):  # the library does this only for some of them
            cached = try_to_load_from_cache(repo, file, revision=revision)
            if isinstance(cached, str):
                return Path(cached)
        raise PoseError(f"{what}: {_describe_hub_error(error, repo, size)}") from None


def _require_sha256(what: str, path: Path, sha256: str | None) -> None:
    actual = digest(path) if sha256 else None
    if actual != sha256:
        raise PoseError(
            f"{what}: sha256 is {actual}, weights.sha256 says {sha256}; correct weights.revision "
            f"or weights.sha256, or delete {path.resolve()} if that copy is damaged"
        )


def _describe_hub_error(error: Exception, repo: str, size: int | None) -> str:
    """One line with the next step, for the exceptions of hf_hub_download."""
    if isinstance(error, hub.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the reason why the Hub could not be reached
    page, cache = f"{constants.ENDPOINT}/{repo}", constants.HF_HUB_CACHE
    for kind, text in HUB_ERRORS:
        if isinstance(error, kind):
            return text.format(page=page, cache=cache, error=first_line(error))
    if isinstance(error, hub.HfHubHTTPError):
        status = error.response.status_code
        return HUB_STATUS.get(status) or describe_status(status)
    return describe_error(error, size)
