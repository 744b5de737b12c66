"""The package as `pip install .` gives it, used from another folder."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("setuptools", minversion="77", reason="builds the package without fetching anything")
ROOT = Path(__file__).parents[2]
NEEDED = ("fatezero_ext", "pyproject.toml", "README.md", "LICENSE", "requirements.txt")
USE = """
import json, sys, torch, fatezero_ext as f
model = f.load_toy()
assert "cat" in f.load_toy(world="objects").unet.objects
latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
controller = f.invert(f.Controller(model.unet), model.text_encoder, latents, "a red circle on the grass", steps=2)
result = f.edit(controller, model.text_encoder, "a blue circle on the grass")
print(json.dumps([f.__file__, list(result.latents.shape), bool(result.latents.isfinite().all())]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the installed package; a copy is built, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("install")
    for name in NEEDED:
        source, copy = ROOT / name, folder / "source" / name
        copy.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    # Beside them in a checkout, and no part of the package.
    for name in ("nodes", "tests"):
        (folder / "source" / name).mkdir()
        (folder / "source" / name / "__init__.py").touch()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--no-deps"]
    pip += ["--no-build-isolation", "--no-index", "--no-compile", "--target", str(folder / "site")]
    built = subprocess.run([*pip, str(folder / "source")], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"


def test_the_package_is_installed_with_its_data_and_nothing_else(installed):
    (about,) = installed.glob("*.dist-info")
    assert {path.name for path in installed.iterdir()} == {"fatezero_ext", about.name}
    wanted = {path.relative_to(ROOT) for path in (ROOT / "fatezero_ext").rglob("*") if path.is_file()}
    wanted = {path for path in wanted if "__pycache__" not in path.parts}
    found = {path.relative_to(installed) for path in (installed / "fatezero_ext").rglob("*") if path.is_file()}
    assert found == wanted
    requirements = (ROOT / "requirements.txt").read_text().split()
    metadata = (about / "METADATA").read_text()
    assert all(f"Requires-Dist: {need}" in metadata for need in requirements if ">=" in need)


@pytest.mark.slow
def test_an_installed_package_edits_a_clip_from_another_folder(installed, tmp_path):
    code = f"import sys; sys.path.insert(0, {str(installed)!r}){USE}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    place, shape, finite = json.loads(done.stdout.splitlines()[-1])
    assert Path(place).is_relative_to(installed) and shape == [2, 4, 8, 8] and finite
    assert list(tmp_path.iterdir()) == []
