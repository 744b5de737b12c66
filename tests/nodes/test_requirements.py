"""A requirement that is missing is told when ComfyUI loads the pack, not in the middle of a run."""

import asyncio
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


def test_missing_modules_stop_the_pack_and_it_says_what_to_install_where(monkeypatch):
    nodes, requirements = load_pack("nodes"), load_pack("nodes.requirements")
    find = requirements.find_spec
    monkeypatch.setattr(requirements, "find_spec", lambda name: None if name in ("blake3", "av") else find(name))
    with pytest.raises(ImportError, match=r"needs av, blake3, .*requirements\.txt into .*python"):
        asyncio.run(nodes.comfy_entrypoint())
