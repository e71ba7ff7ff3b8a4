"""Names of repositories on the Hugging Face Hub."""

import re

from huggingface_hub.utils import HFValidationError, validate_repo_id


def check_name(repo_id: str) -> None:
    """Raise ValueError for a name that the Hub does not allow."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"the repository must be named USER/NAME, got {repo_id!r}: {error}") from error


def check_branch(branch: str) -> None:
    """Raise ValueError for a name that no branch of a repository can have."""
    if not re.fullmatch(r"[\w-]+([./]?[\w-]+)*", branch):
        raise ValueError(f"the branch must be named as in git, such as trial or user/trial, got {branch!r}.")


def is_name(repo_id: str) -> bool:
    """Whether the Hub allows this name."""
    try:
        check_name(repo_id)
    except ValueError:
        return False
    return True
