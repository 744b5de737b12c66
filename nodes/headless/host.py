"""The runner as a host: its folders, and the terminal on which nodes show their progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

from ...fatezero_ext.errors import FateZeroError
from ...fatezero_ext.media.streamed import HELD_BYTES
from ...fatezero_ext.models.weight_files import WEIGHT_SUFFIXES
from ...fatezero_ext.tuning.file_names import is_of_run
from ..host.protocol import ModelKind, Progress
from ..host.python import PythonHost
from ..host.told import ToldLines
from ..model_folders import at_most_two_levels_below
from .run.progress import Reporter
from .schemas.registry import near_miss

if TYPE_CHECKING:
    from ...fatezero_ext.diffusion.noise_model import LatentFormat

INPUT_MARK = " [input]"
"""Mark that ComfyUI may append to the name of a file in its input folder."""
SHOWN = 80
"""Characters of a wrong name that a message shows."""


class InputFileError(FateZeroError):
    """An input file is not there or outside the folders that may be read."""


@dataclass(frozen=True)
class Folders:
    """Folders of a run.

    inputs: looked through in this order for a file; nothing outside them is read
    output: where results are saved
    models: below which models are looked for: folders in diffusers layout, and single files, in the folders
            checkpoints and loras where there are such
    """

    inputs: tuple[Path, ...]
    output: Path
    models: tuple[Path, ...] = ()

    def input_file(self, name: str) -> Path:
        """Return the input file of that name; raises InputFileError where there is none."""
        plain = name.removesuffix(INPUT_MARK)
        looked = ", ".join(str(folder) for folder in self.inputs)
        for folder in self.inputs:
            try:
                path = (folder / plain).resolve()
                found = path.is_file()
            except (OSError, ValueError, RuntimeError) as error:  # too long, a zero character, a loop of links
                reason = getattr(error, "strerror", None) or error
                shown = plain if len(plain) <= SHOWN else f"{plain[:SHOWN]}..."
                raise InputFileError(f"{shown!r} is no file name ({reason}); one is needed. Correct it.") from error
            if not path.is_relative_to(folder.resolve()):
                raise InputFileError(
                    f"'{plain}' is outside the input folder {folder}; only files inside are read. "
                    f"Copy it there, or give its folder as --input."
                )
            if found:
                return path
        present = [entry.name for folder in self.inputs if folder.is_dir() for entry in folder.iterdir()]
        raise InputFileError(
            f"there is no file '{plain}' in {looked}.{near_miss(plain, present)} Copy it there, or give its folder "
            f"as --input."
        )

    def model_files(self, kind: ModelKind) -> dict[str, Path]:
        """Return files of weights by their names relative to the folder.

        Parts of diffusers folders, and what is kept of tuning runs, are left out.
        """
        found: dict[str, Path] = {}
        for root in self.models:
            top = root / kind if (root / kind).is_dir() else root
            for path in at_most_two_levels_below(top):
                if path.suffix in WEIGHT_SUFFIXES and not (is_of_run(path) or (path.parent / "config.json").exists()):
                    found.setdefault(path.relative_to(top).as_posix(), path)
        return found


class RunnerHost(PythonHost):
    """The headless runner: models below --models, input files below --input and the examples, results in --output."""

    def __init__(self, folders: Folders, reporter: Reporter) -> None:
        self._folders, self._reporter = folders, reporter
        self._told = ToldLines()

    def progress(self, total: int, latents: LatentFormat | None = None) -> Progress:
        return self._reporter.bar(total)

    def say(self, remarks: Sequence[str], choices: Sequence[str], node_id: str | None) -> None:
        """Write it above the bar, once for nodes inside each other."""
        if lines := self._told.new((*remarks, *choices), node_id):
            self._reporter.say(indent("\n".join(lines), "  "))

    def diffusers_folders(self) -> tuple[Path, ...]:
        return self._folders.models

    def clip_folders(self) -> tuple[Path, ...]:
        return self._folders.models

    def model_names(self, kind: ModelKind) -> list[str]:
        return sorted(self._folders.model_files(kind))

    def model_file(self, kind: ModelKind, name: str) -> Path | None:
        return self._folders.model_files(kind).get(name)

    def models_place(self) -> str:
        if not self._folders.models:
            return "into a folder and name that as --models"
        return f"into {', '.join(str(folder) for folder in self._folders.models)}"

    def most_held_bytes(self) -> int | None:
        return HELD_BYTES

    def input_file(self, name: str) -> Path:
        return self._folders.input_file(name)

    def input_folders(self) -> tuple[Path, ...]:
        return self._folders.inputs

    def output_directory(self) -> Path:
        return self._folders.output
