"""Upload a folder of :func:`alignmix_timm.save_for_timm` to the Hugging Face Hub, as one commit."""

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, get_token, hf_hub_download
from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

from .card import make_card, merge_card
from .repo_id import check_branch, check_name
from .save import FILES, WEIGHTS
from .verify import check_folder

_LIBRARY = "alignmix_timm"


class PushError(RuntimeError):
    """The Hub did not take a model. The message says why, and that the repository is as it was."""


def push_to_hub(
    folder: str | Path, repo_id: str, *, private: bool = False, tag: str | None = None, branch: str | None = None
) -> str:
    """Check a folder, write its card, and publish both; print what the check found.

    All files come in one commit, so that a revision of the repository is never half a model. A push can be repeated.
    The token is that of ``hf auth login`` or of HF_TOKEN.

    Args:
        folder: Of :func:`alignmix_timm.save_for_timm`; it stays as it is.
        repo_id: ``USER/NAME``; made if there is none. What a person wrote in its README.md is kept.
        private: For a new repository.
        tag: A new tag of this revision, for ``hf-hub:USER/NAME@TAG``.
        branch: Push to this one, which is made if there is none, and not to main; for ``hf-hub:USER/NAME@BRANCH``.

    Returns:
        Address of the commit.

    Raises:
        ValueError: the folder or the name are not as they must be, or plain timm gives other logits; nothing was sent.
        PushError: the Hub refused, or broke off.
    """
    check_name(repo_id)
    if branch is not None:
        check_branch(branch)
    print(check_folder(folder), flush=True)
    return upload(Path(folder), repo_id, private=private, tag=tag, branch=branch)


def upload(
    folder: Path, repo_id: str, *, private: bool = False, tag: str | None = None, branch: str | None = None
) -> str:
    """:func:`push_to_hub` for a folder that was checked."""
    token = get_token()
    if not token:
        raise PushError(f"{repo_id} was not touched: there is no token. Run hf auth login, or set HF_TOKEN.")
    step = "make the repository"
    try:
        api = HfApi(library_name=_LIBRARY)
        repo_id = api.create_repo(repo_id, private=private or None, exist_ok=True).repo_id
        if branch is not None:
            step = f"make the branch {branch}"
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        step = "read the present card"
        head = api.repo_info(repo_id, revision=branch).sha
        card = merge_card(_existing_card(repo_id, head), make_card(folder, repo_id, branch))
        ModelCard(card)
        files: dict[str, str | bytes] = {"README.md": card.encode()} | {name: str(folder / name) for name in FILES}
        _refuse_secrets(files, token)
        step = "upload the files"
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        commit = api.create_commit(
            repo_id,
            operations,
            commit_message="Publish weights, card and provenance",
            revision=branch,
            parent_commit=head,
        )
        if tag is not None:
            step = f"set the tag {tag}, though the commit was made"
            api.create_tag(repo_id, tag=tag, revision=commit.oid)
    except PushError:
        raise
    except Exception as error:  # of the client, and of whichever HTTP library it uses
        raise PushError(f"could not {step} in {repo_id}: {_reason(error).replace(token, '***')}") from None
    return commit.commit_url


def _existing_card(repo_id: str, revision: str | None) -> str | None:
    try:
        path = hf_hub_download(repo_id, "README.md", revision=revision, library_name=_LIBRARY)
    except LocalEntryNotFoundError:  # the server did not answer: there may be one
        raise
    except EntryNotFoundError:
        return None
    return Path(path).read_text(encoding="utf-8-sig")


def _refuse_secrets(files: dict[str, str | bytes], token: str) -> None:
    """No text that is about to be public may hold the token: an option of the run could."""
    for name, content in files.items():
        if name == WEIGHTS:
            continue
        read = content if isinstance(content, bytes) else Path(content).read_bytes()
        if token.encode() in read:
            raise PushError(f"nothing was uploaded: {name} holds your token. Take it out of the options of the run.")


def _reason(error: Exception) -> str:
    """In words that say what to do, without headers or traceback."""
    cause: BaseException = error
    while getattr(cause, "response", None) is None and cause.__cause__ is not None:
        cause = cause.__cause__
    status = getattr(getattr(cause, "response", None), "status_code", None)
    known = {
        401: "the token was not accepted. Run hf auth login again, or set HF_TOKEN",
        403: "the token may not write there: the repository is somebody else's, or the token only reads",
        404: "the repository is not there, or not visible with this token",
        409: "it was changed at the same time, or the name is taken already",
        412: "it was changed at the same time",
    }
    first = next((line.strip() for line in str(cause).splitlines() if line.strip()), "no message")
    said = known.get(status or 0) or f"{type(cause).__name__}: {first.rstrip('.')}"
    number = f" (HTTP {status})" if status else ""
    return f"{said}{number}. No revision is half there, and your folder is as it was: repeat."
