"""The command line: `python -m fatezero_ext run WORKFLOW.json` and `python -m fatezero_ext demo`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

FAILED, INTERRUPTED = 1, 130

RUN_HELP = """\
Runs a workflow saved by ComfyUI (either export format) without ComfyUI.

settings:
  NODE.INPUT=VALUE gives an input another value. NODE is a node's id, or its title where only one node has it:
    --set 8.edit_prompt="a blue ball"      --set DDIMInvert.steps=20

variants:
  Each --variant runs the workflow once more with its own settings, and repeats only the nodes that they change:
    run edit.json --variant 8.edit_prompt="a red ball" --variant 8.edit_prompt="a blue box" 8.mode=refine

Paths of saved files go to standard output, everything else to standard error.
Exit code: 0 done, 1 a node failed, 2 the command or the workflow is not valid (nothing ran), 130 stopped by Ctrl-C.
"""


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="python -m fatezero_ext", description="FateZero video editing.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "demo", add_help=False, help="edit the sample clip with the built-in model and measure the result"
    )
    commands.add_parser("cache", add_help=False, help="list, verify and prune the inversions saved on disk")
    commands.add_parser("measure", add_help=False, help="measure an edited clip against its source")
    _describe_import(
        commands.add_parser("import-config", help="turn a config of the authors' program into a workflow file")
    )
    _describe_run(
        commands.add_parser(
            "run",
            help="run a workflow file",
            description=RUN_HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    return top


def _describe_run(run: argparse.ArgumentParser) -> None:
    run.add_argument("workflow", type=Path, metavar="WORKFLOW.json", help="UI or API format")
    setting = "NODE.INPUT=VALUE"
    run.add_argument(
        "--set", dest="settings", action="append", default=[], metavar=setting, help="set an input; repeatable"
    )
    run.add_argument(
        "--variant",
        dest="variants",
        action="append",
        default=[],
        nargs="+",
        metavar=setting,
        help="one more run; repeatable",
    )
    run.add_argument(
        "--output", type=Path, default=Path("output"), metavar="DIR", help="where to save (default: ./output)"
    )
    run.add_argument(
        "--input",
        type=Path,
        dest="inputs",
        metavar="DIR",
        help="where input files are (default: the workflow's folder, then the pack's example_workflows)",
    )
    run.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="folder of models, diffusers folders and single files",
    )
    run.add_argument("--check", action="store_true", help="validate only")
    run.add_argument("--verbose", action="store_true", help="show the traceback of a failing node")


def _describe_import(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", type=Path, metavar="FILE.yaml", help="a config of the authors' program")
    command.add_argument("--output", type=Path, required=True, metavar="WORKFLOW.json", help="the file to write")
    command.add_argument(
        "--quirks", choices=["original", "fixed"], default="original", help="P2P Edit's widget (default: original)"
    )
    command.add_argument(
        "--models-prefix", default="", metavar="TEXT", help="put in front of the model's folder name, such as CompVis/"
    )


def stop_on_terminate() -> None:
    """Let a termination request end the program as cleanly as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        if given[:1] == ["demo"]:
            from .cli.demo import main as demo

            return demo(given[1:])
        if given[:1] == ["cache"]:
            from .cli.cache import main as cache

            return cache(given[1:])
        if given[:1] == ["measure"]:
            from .cli.measure import main as measure

            return measure(given[1:])
        return _run(parser().parse_args(given))
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. Files already saved are whole; nothing else was written.\n")
        return INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    from .cli.node_pack import load_pack
    from .errors import FateZeroError

    settings = {name: value for name, value in vars(options).items() if name != "command"}
    try:
        if options.command == "import-config":
            importer = load_pack("nodes.authors_configs.command")
            return importer.import_config(importer.ImportConfig(**settings))
        command = load_pack("nodes.headless.command")
    except FateZeroError as error:
        sys.stderr.write(f"Error: {error}\n")
        return FAILED
    return command.run_command(command.Command(**settings))


if __name__ == "__main__":
    stop_on_terminate()
    sys.exit(main())
