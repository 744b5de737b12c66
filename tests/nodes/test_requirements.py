"""A requirement that is missing is told when ComfyUI loads the pack, not in the middle of a run."""

import sys
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from fatezero_ext.cli.node_pack import load_pack

ROOT = Path(__file__).parents[2]


def test_modules_are_those_of_the_requirements():
    modules = load_pack("nodes.requirements").MODULES
    wanted = [line.split(">=")[0].lower() for line in (ROOT / "requirements.txt").read_text().split()]
    distributions = packages_distributions()
    assert [{name.lower() for name in distributions[module]} for module in modules] == [{name} for name in wanted]


@pytest.mark.parametrize("missing", ["av", "PIL", "numpy", "blake3", "diffusers"])
def test_a_missing_module_stops_the_pack_and_it_says_what_to_install_where(monkeypatch, missing):
    """The pack is imported anew, as ComfyUI does; what lacks the module is never reached."""
    requirements, pack = load_pack("nodes.requirements"), load_pack("nodes").__name__
    find = requirements.find_spec
    monkeypatch.setattr(requirements, "find_spec", lambda name: None if name == missing else find(name))
    for name in [name for name in sys.modules if name == pack or name.startswith(f"{pack}.")]:
        if name != requirements.__name__:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)  # an import of it fails
    with pytest.raises(ImportError, match=rf"needs {missing}, .*requirements\.txt into .*python"):
        import_module(pack)
