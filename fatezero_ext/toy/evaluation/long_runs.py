"""Commands that measure for a long time: refuse result files that cannot be written, and report what there is."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from ...atomic_files import whole_file
from ...errors import FateZeroError

FAILED, INTERRUPTED = 1, 130
"""Exit codes; 130 is what a shell gives for Ctrl-C."""


def run(work: Callable[[], None], report: Callable[[], None]) -> int:
    """Do the work, then report whatever it came to, also where Ctrl-C or an error ended it. Returns the exit code."""
    try:
        work()
    except KeyboardInterrupt:
        return INTERRUPTED
    except FateZeroError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    finally:
        report()
    return 0


def whole_number(text: str, least: int = 0) -> int:
    """Parse a whole number of at least `least`; raise ArgumentTypeError for anything else."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} came; a whole number of at least {least} is needed")
    return int(text)


def result_folder(text: str) -> Path:
    """Parse a folder that results will be written to, and make it; raise ArgumentTypeError where that cannot be."""
    folder = Path(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be made ({error.strerror}); a folder for results is needed. Name another one"
        ) from error
    if not os.access(folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written to; results go there. Name another folder")
    return folder


def result_file(text: str) -> Path:
    """Parse a file that results will be written to, and make its folder; raise ArgumentTypeError likewise."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; a file is needed. Add a file's name")
    result_folder(str(path.parent))
    return path


def picture_file(text: str) -> Path:
    """Parse a PNG file that a picture will be written to, as `result_file`."""
    if Path(text).suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"{text!r} came; pictures are PNG files. End the name in .png")
    return result_file(text)


def write_json(path: Path, figures: object) -> None:
    """Write figures as JSON, the whole file or nothing."""
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(figures, indent=1) + "\n")
