"""Names of repositories on the Hugging Face Hub."""

from huggingface_hub.utils import HFValidationError, validate_repo_id


def check_name(repo_id: str) -> None:
    """Raise ValueError for a name that the Hub does not allow."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"the repository must be named USER/NAME, got {repo_id!r}: {error}") from error


def is_name(repo_id: str) -> bool:
    """Whether the Hub allows this name."""
    try:
        check_name(repo_id)
    except ValueError:
        return False
    return True
