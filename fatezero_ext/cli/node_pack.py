"""Loads the node pack around this package the way ComfyUI does: by its path, under a package name of its own."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from ..errors import FateZeroError

PACK = "fatezero_pack"


def load_pack(part: str = "") -> ModuleType:
    """The pack, or one of its modules such as 'nodes.headless.command'.

    The pack's own copy of this package is `load_pack('fatezero_ext')`: its classes are not this module's siblings.
    Raises FateZeroError where this package is installed without the pack.
    """
    if PACK not in sys.modules:
        root = Path(__file__).resolve().parents[2]
        if not (root / "nodes" / "__init__.py").is_file():
            raise FateZeroError(
                f"there are no nodes beside {root}; workflows need the project's checkout, "
                f"of which only the Python package is installed. Run this from the checkout."
            )
        _import_from(root)
    return import_module(f"{PACK}.{part}" if part else PACK)


def _import_from(root: Path) -> None:
    spec = spec_from_file_location(PACK, root / "__init__.py", submodule_search_locations=[str(root)])
    if spec is None or spec.loader is None:
        raise FateZeroError(f"{root} cannot be imported as a package; its __init__.py is needed. Restore the checkout.")
    module = module_from_spec(spec)
    sys.modules[PACK] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[PACK]
        raise
