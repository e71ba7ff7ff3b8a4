"""``alignmix-timm``: run a training script as ``__main__``, with AlignMix behind its ``--mixup``."""

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from ..nearest import nearest
from .messages import stop
from .options import add_options, names
from .requirements import check_timm

_USAGE = """alignmix-timm SCRIPT.py [OPTION ...] --mixup alignmix
       torchrun ... -m alignmix_timm.timm_train SCRIPT.py [OPTION ...] --mixup alignmix
       alignmix-timm train --data DATA [OPTION ...]
       alignmix-timm evaluate MODEL --data DATA
       alignmix-timm push RUN_FOLDER USER/NAME
       alignmix-timm show MODEL IMAGE IMAGE"""
_ABOUT = """Five commands:

  SCRIPT.py  run timm's train.py, or a script like it, with AlignMix; all options go to the script, with those below
  train      train with this package's own engine; alignmix-timm train --help lists its options
  evaluate   measure any timm model on any data; alignmix-timm evaluate --help
  push       publish a trained model on the Hugging Face Hub; alignmix-timm push --help
  show       draw which positions of two images correspond; alignmix-timm show --help
"""
_NOTES = """--mixup-prob, --mixup-off-epoch, --smoothing, --cutmix and --mixup-switch-prob keep their meaning. Options
may stand in the file of -c: mixup: alignmix, alignmix_alpha: 1.0. SCRIPT.py --help lists all of the script."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``SCRIPT.py [OPTION ...]``.

    Args:
        arguments: Default: those of the command line.

    Raises:
        SystemExit: the script's own; status 2 for what cannot be combined with AlignMix, 1 for a run that trained, or
            would train, without it.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        _parser().print_help()
        return
    if not given[0].endswith(".py"):
        stop(
            f"the first argument must be a script, SCRIPT.py, or train, evaluate, push or show, got {given[0]!r}."
            f"{nearest(given[0], ['train', 'evaluate', 'push', 'show'])} See alignmix-timm --help.",
            2,
        )
    if not Path(given[0]).is_file():
        stop(f"there is no script {given[0]!r}.", 2)
    check_timm()
    run_script(given[0], given[1:])


def run_script(path: str, arguments: Sequence[str]) -> None:
    """Run a script as ``python path arguments`` does, by the patches of a :class:`ScriptRun`."""
    from .patches import patched  # after check_timm: they are built on names that it checks
    from .run import ScriptRun

    saved, run = (sys.argv, sys.path), ScriptRun()
    sys.argv = [path, *arguments]
    sys.path = [str(Path(path).resolve().parent), *sys.path]
    try:
        with patched(run):
            try:
                runpy.run_path(path, run_name="__main__")
            except SystemExit as exit:
                if exit.code not in (None, 0) or {"-h", "--help"} & set(arguments):
                    raise
            run.finish()
    finally:
        sys.argv, sys.path = saved
        run.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "alignmix-timm",
        usage=_USAGE,
        description=_ABOUT,
        epilog=_NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--mixup", metavar="NAME", help=f"mix by {', '.join(names())}; a number is timm's own mixup")
    add_options(parser)
    return parser
