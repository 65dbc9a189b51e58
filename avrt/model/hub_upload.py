"""An exported student as a model repository of the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from avrt.config.errors import one_line
from avrt.model.student_folder import MARKER

OPTION = "--push-to-hub"


def create_repository(repository: str, private: bool) -> None:
    """Create a model repository unless it exists, before a long export: a wrong name or token shows at once.

    The Hub's address and the token are those of its own client (HF_ENDPOINT, HF_TOKEN or ``hf auth login``).

    Args:
        repository: ``owner/name``.
        private: whether a new repository is visible to its owner only (else the owner's default); an existing one stays
            as it is.

    Raises:
        ValueError: the name cannot be a repository's, or the Hub refuses or does not answer.
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if repository.count("/") != 1:
        raise ValueError(f"{OPTION} {repository}: must be owner/name")
    try:
        HfApi().create_repo(repository, private=private or None, exist_ok=True)
    except HFValidationError as error:
        raise ValueError(f"{OPTION} {repository}: {one_line(error)}") from error
    except (HfHubHTTPError, httpx2.HTTPError) as error:
        raise ValueError(_refusal(repository, error)) from error


def check_exported(folder: str | Path) -> None:
    """Check that `folder` has an exported student, or raise ValueError."""
    folder = Path(folder)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{folder}: is not an exported student (no config.json with *.safetensors); give --out FOLDER to export it "
            "first"
        )


def upload_student(folder: str | Path, repository: str, message: str) -> str:
    """Upload an exported student as one commit; files that the repository has already are not sent again.

    Args:
        folder: an exported student.
        repository: ``owner/name``, which exists.
        message: first line of the commit's message.

    Returns:
        Address of the commit.

    Raises:
        ValueError: `folder` has no student, or the Hub refuses or does not answer.
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    check_exported(folder)
    try:
        commit = HfApi().upload_folder(
            repo_id=repository, folder_path=str(folder), commit_message=message, ignore_patterns=[MARKER]
        )
    except (HfHubHTTPError, httpx2.HTTPError) as error:
        raise ValueError(
            f"{_refusal(repository, error)}; the student is in {folder}: python -m avrt export {folder} {OPTION} "
            f"{repository} uploads it again"
        ) from error
    return str(commit.commit_url)


def _refusal(repository: str, error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is None:
        from huggingface_hub import constants

        return f"{OPTION} {repository}: {constants.ENDPOINT} does not answer ({one_line(error)})"
    hint = "; log in with `hf auth login` or set HF_TOKEN to a token with write access"
    return f"{OPTION} {repository}: the Hub refused ({one_line(error)}){hint if response.status_code == 401 else ''}"
