"""The public names: whatever a public signature names can be imported, and names load when they are used."""

import ast
import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fatezero_ext
from fatezero_ext.cli.node_pack import load_pack

from .public_names import all_named, public_callables

SOURCE = ast.parse(Path(fatezero_ext.__file__).read_text())
PUBLIC = {name: getattr(fatezero_ext, name) for name in fatezero_ext.__all__}
WORTH_A_NAME = (
    "AttentionStore InversionCache MapController Reconstruction StepDone Trace principal_components read_video "
    "recorded_maps self_attention_maps word_heats write_video"
).split()


def for_type_checkers():
    """name -> module, of the block that only type checkers read."""
    (block,) = [node for node in SOURCE.body if isinstance(node, ast.If)]
    return {alias.asname: node.module for node in block.body for alias in node.names}


def test_all_that_public_signatures_name_is_public():
    assert sorted(set(all_named(PUBLIC)) - set(PUBLIC)) == []


def test_type_checkers_see_the_names_that_there_are():
    assert for_type_checkers() == fatezero_ext._HOME_OF


def test_a_name_is_the_same_thing_each_time_it_is_asked_for():
    """A module of the same name would take its place once it is imported."""
    for name, first in PUBLIC.items():
        assert getattr(fatezero_ext, name) is first


@pytest.mark.parametrize("name", WORTH_A_NAME)
def test_what_researchers_ask_for_has_a_public_name(name):
    assert name in fatezero_ext.__all__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'invret'"):
        fatezero_ext.invret  # noqa: B018 - asking is the test


ERRORS = [name for name, value in PUBLIC.items() if inspect.isclass(value) and issubclass(value, Exception)]


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_called_by_its_public_name_whatever_folder_the_pack_lies_in(name):
    """ComfyUI's page shows `__module__` and `__qualname__` before the message, and imports the pack by its path."""
    for kind in (PUBLIC[name], getattr(load_pack("fatezero_ext.errors"), name)):
        assert f"{kind.__module__}.{kind.__qualname__}" == f"fatezero_ext.{name}"
    copied = pickle.loads(pickle.dumps(PUBLIC[name]("Change it.")))
    assert type(copied) is PUBLIC[name] and str(copied) == "Change it."


def test_importing_the_package_imports_nothing_else():
    probe = "import sys, fatezero_ext; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'diffusers')])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=SOURCE_ROOT)
    assert done.stdout.strip() == "[]"


def test_importing_the_package_is_quick():
    probe = "import time; began = time.process_time(); import fatezero_ext; print(time.process_time() - began)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=SOURCE_ROOT)
    assert float(done.stdout) < 0.3


SOURCE_ROOT = Path(fatezero_ext.__file__).parents[1]


def latent_arguments():
    """(name, docstring) of public calls and values that take, hold or give latents."""
    for name, value in PUBLIC.items():
        members = [(name, value)] if inspect.isclass(value) else []
        for called, function in [*members, *((f"{name}.{f.__name__}", f) for f in public_callables(value))]:
            hints = getattr(function, "__annotations__", {})
            named = {hint for hint, kind in hints.items() if "Tensor" in str(kind)}
            if named & {"latents", "noise", "x_t", "samples", "latents_store"}:
                yield called, function.__doc__ or value.__doc__ or ""


@pytest.mark.parametrize(("name", "doc"), list(latent_arguments()))
def test_latents_are_said_to_be_raw_or_scaled(name, doc):
    assert re.search(r"\b(raw|scaled)\b", doc), f"{name}: {doc}"
