"""Carries out `python -m fatezero_ext import-config`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...fatezero_ext.atomic_files import whole_file
from ...fatezero_ext.errors import FateZeroError
from ..headless.formats.ui_writer import ui_document
from ..headless.schemas.registry import NodeTypes, pack_node_types
from .config import checked
from .translate import Options, translate
from .yaml_reader import read_config

OK, REFUSED = 0, 2


@dataclass(frozen=True)
class ImportConfig:
    """One call: a YAML file of the authors' program, and the workflow file to write. See `translate.Options`."""

    config: Path
    output: Path
    quirks: str = "original"
    models_prefix: str = ""


def import_config(command: ImportConfig, types: NodeTypes | None = None) -> int:
    """Convert and save; returns the exit code. A refused config leaves no file."""
    try:
        if command.output.resolve() == command.config.resolve():
            raise FateZeroError(f"--output {command.output} is the config itself; another file is needed. Name one.")
        types = pack_node_types() if types is None else types
        options = Options(command.config.stem, command.quirks, command.models_prefix)
        translation = translate(checked(read_config(command.config)), options, types)
        document = ui_document(translation.graph, types, _note(command.config.name, translation.warnings))
        with whole_file(command.output) as partial:
            partial.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except FateZeroError as error:
        sys.stderr.write(f"Error in {command.config.name}: {error}\n")
        return REFUSED
    except OSError as error:
        sys.stderr.write(f"Error: cannot write {command.output} ({error.strerror}). Name another --output.\n")
        return REFUSED
    for warning in translation.warnings:
        sys.stderr.write(f"Warning: {warning}\n")
    sys.stdout.write(f"{command.output}\n")
    return OK


def _note(name: str, warnings: Sequence[str]) -> str:
    """Return Markdown for the workflow's note."""
    intro = (
        f"# {name}\n\nConverted from a config of the authors' program. Copy the clip's folder into the input folder, "
        f"and choose the model in **Load model**."
    )
    listed = "\n".join(f"- {warning}" for warning in warnings)
    return f"{intro}\n\nNot taken over, or read in a special way:\n\n{listed}" if warnings else intro
