"""Import of the node pack around this package, the way ComfyUI does it: by its path, under a name of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import FateZeroError

PACK = "fatezero_pack"
OURS = __name__.removesuffix(".cli.node_pack")
THEIRS = f"{PACK}.fatezero_ext"
"""Name under which the pack's nodes import this package, by their relative imports."""


class _OneCopy(MetaPathFinder, Loader):
    """Importer of the pack's `fatezero_ext` that returns the modules of this package, so that classes exist once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        ours = fullname == THEIRS or fullname.startswith(f"{THEIRS}.")
        return ModuleSpec(fullname, self) if ours else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(OURS + spec.name.removeprefix(THEIRS))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module back its own spec, which the import system has replaced."""
        spec = module.__spec__
        assert spec is not None
        module.__spec__ = spec.loader_state


def load_pack(part: str = "") -> ModuleType:
    """Import the pack, or one of its modules such as 'nodes.headless.command'.

    The nodes use this very package, not a second copy of it: `load_pack('fatezero_ext')` is `fatezero_ext` itself.
    Raises FateZeroError if this package is installed without the pack.
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
    module, one_copy = module_from_spec(spec), _OneCopy()
    sys.modules[PACK] = module
    sys.meta_path.insert(0, one_copy)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[PACK]
        sys.meta_path.remove(one_copy)
        raise


def call_in_pack(part: str, function: str, *arguments: Any) -> Any:  # noqa: ANN401 - of any function
    """Call a function of one of the pack's modules, in a new process that has not imported the pack yet.

    arguments: plain values, which can be read there before the pack is
    """
    return getattr(load_pack(part), function)(*arguments)


class InPack:
    """An object of one of the pack's classes, made in a new process; its generators are called by name."""

    def __init__(self, part: str, make: str, *arguments: Any) -> None:  # noqa: ANN401 - of any class
        """arguments: plain values, as in `call_in_pack`"""
        self._made = call_in_pack(part, make, *arguments)

    def each(self, method: str, *arguments: Any) -> Iterator[Any]:  # noqa: ANN401 - of any method
        """Yield what a generator of the object yields."""
        for item in getattr(self._made, method)(*arguments):  # noqa: UP028 - Ray sends into generators, and not all take it
            yield item

    def is_alive(self) -> bool:
        """Return at once, on another thread than the generators: a process that hangs does not."""
        return True
