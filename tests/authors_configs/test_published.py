"""Every config of a checkout of the authors' program is converted, and the runner finds the workflow valid."""

import os
from pathlib import Path

import pytest
from PIL import Image

from fatezero_ext.cli.main import main

NAME = "FATEZERO_CHECKOUT"
CHECKOUT = Path(os.environ[NAME]) if os.environ.get(NAME) else None
CONFIGS = [] if CHECKOUT is None else sorted((CHECKOUT / "config").rglob("*.yaml"))
MANY = 300
"""Pictures in the stand-in clip: more than any published config reads."""

pytestmark = pytest.mark.skipif(CHECKOUT is None, reason=f"{NAME} names no checkout of the authors' repository")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """An input folder with a clip in place of the authors' data, which are downloaded apart from their repository."""
    folder = tmp_path_factory.mktemp("input")
    (folder / "clip").mkdir()
    for number in range(MANY):
        Image.new("RGB", (8, 8)).save(folder / "clip" / f"{number:05}.png")
    return folder


def test_the_checkout_has_configs():
    assert CONFIGS, f"no config/**/*.yaml below {CHECKOUT}"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_published_config_becomes_a_valid_workflow(config, clip, tmp_path, capsys):
    workflow = tmp_path / "workflow.json"
    assert main(["import-config", str(config), "--output", str(workflow)]) == 0, capsys.readouterr().err
    settings = ["--set", "LoadFrames.source=clip", "--set", "LoadPseudo3DUNet.model=built-in toy model"]
    checked = main(["run", str(workflow), "--check", "--input", str(clip), *settings])
    assert checked == 0, capsys.readouterr().err
