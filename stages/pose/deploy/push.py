"""Upload of an exported folder to the Hugging Face Hub, into a new repository."""

from __future__ import annotations

import os
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub import errors as hub
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented

from pose.common.errors import PoseError
from pose.fetch.errors import describe_error, describe_status, first_line

TOKEN = "HF_TOKEN"
ERRORS = (OSError, ValueError, RuntimeError, httpx2.HTTPError)  # HfHubHTTPError is an OSError
STATUS = {
    401: "HTTP 401: {token} is not valid; make one at {endpoint}/settings/tokens",
    403: "HTTP 403: {token} may not write there; check the owner and the token's permissions",
    409: "exists and was not changed; choose another name, or `hf upload {repo} {folder}`",
}


def require_token(repo: str) -> str:
    """The token of the environment. Raises PoseError if it is not set, or for a bad owner/name."""
    try:
        validate_repo_id(repo)
    except hub.HFValidationError as error:
        raise PoseError(f"--push {repo}: {first_line(error)}; expected owner/name") from None
    if repo.count("/") != 1:
        raise PoseError(f"--push {repo}: names no owner; expected owner/name")
    if not (token := os.environ.get(TOKEN, "").strip()):
        page = f"{constants.ENDPOINT}/settings/tokens"
        raise PoseError(f"--push {repo}: {TOKEN} is not set; set it to a write token of {page}")
    return token


def push(folder: Path, repo: str, public: bool) -> str:
    """Create the repository owner/name, private unless `public`, with the files of the folder.

    Returns its address. A repository that exists is not changed. Raises PoseError of one line.
    """
    what = f"{constants.ENDPOINT}/{repo}"
    api = HfApi(token=require_token(repo))
    try:
        api.create_repo(repo, private=not public)
    except ERRORS as error:
        reason = _describe(error, repo, folder)
        raise PoseError(f"{what}: {reason}; {folder} is complete") from None
    try:
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Exported model")
    except ERRORS as error:
        reason = _describe(error, repo, folder)
        again = f"`hf upload {repo} {folder}` uploads into it"
        raise PoseError(f"{what}: {reason}; the repository was created; {again}") from None
    return what


def _describe(error: Exception, repo: str, folder: Path) -> str:
    """One line for an exception of the library."""
    if not isinstance(error, hub.HfHubHTTPError):
        return describe_error(error)
    status = error.response.status_code
    if status in STATUS:
        names = {"token": TOKEN, "endpoint": constants.ENDPOINT, "repo": repo, "folder": folder}
        return STATUS[status].format(**names)
    return describe_status(status)
