"""Publish a run: the command ``alignmix-timm push RUN_FOLDER USER/NAME``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .card import make_card
from .repo_id import check_name
from .save import CONFIG
from .upload import PushError, push_to_hub
from .verify import check_folder

EXPORTS = "push"  # folder of a run, of the models that it saves to push


def main(argv: Sequence[str] | None = None) -> None:
    """The command ``alignmix-timm push``.

    Raises:
        SystemExit: with a sentence, where the model was not published.
    """
    parser = argparse.ArgumentParser("alignmix-timm push", description="Publish a model on the Hugging Face Hub.")
    parser.add_argument("folder", help="of a run, or of a model saved for timm")
    parser.add_argument("repo_id", metavar="USER/NAME", help="repository; made if there is none")
    parser.add_argument("--private", action="store_true", help="only you can see a new repository")
    parser.add_argument("--tag", help="tag for this revision, to load hf-hub:USER/NAME@TAG")
    parser.add_argument("--branch", help="push to this branch, which is made if there is none; default main")
    parser.add_argument("--dry-run", action="store_true", help="check the model and print its card, offline")
    args = parser.parse_args(argv)
    try:
        folder = find_model(Path(args.folder))
        if args.dry_run:
            check_name(args.repo_id)
            print(check_folder(folder), make_card(folder, args.repo_id, args.branch), sep="\n\n")
        else:
            where = {"private": args.private, "tag": args.tag, "branch": args.branch}
            print(f"Published: {push_to_hub(folder, args.repo_id, **where)}")
    except (PushError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def find_model(folder: Path) -> Path:
    """The model in the folder of a run: at its end ``model``, before that the newest it saved to push.

    Raises:
        ValueError: none there.
    """
    for found in (folder, folder / "model", *sorted((folder / EXPORTS).glob("step-*"), reverse=True)):
        if (found / CONFIG).exists():
            return found
    raise ValueError(f"{folder} must be the folder of a run with a saved model, or such a model; it holds neither.")


if __name__ == "__main__":
    main()
