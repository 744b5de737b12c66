"""The Python of README.md and docs/, run as it stands."""

import re
import shutil
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
PAGES = [page for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")) if BLOCK.search(page.read_text("utf-8"))]


def run(page):
    """Run a page's blocks, which share their names, and return these; errors point into the page."""
    text, names = page.read_text("utf-8"), {"__name__": page.stem}
    for block in BLOCK.finditer(text):
        lines_above = text[: block.start(1)].count("\n")
        exec(compile("\n" * lines_above + block[1], str(page), "exec"), names)  # noqa: S102 - the page is ours
    return names


def check_readme(names):
    assert Path("edited.mp4").stat().st_size > 1000


def check_controllers(names):
    # The words' tokens agree one to one, so the third party's swap and ours are the same.
    torch.testing.assert_close(names["edited"].latents, names["ours"].latents, rtol=0, atol=1e-3)


def check_python(names):
    covered = names["masked"].mask
    assert (covered > 0).any() and (covered < 1).any()
    torch.testing.assert_close(names["same"].latents, names["result"].latents, rtol=0, atol=1e-5)
    chosen = names["chosen"]  # as the page's comments say
    assert (chosen.kind, chosen.mode, chosen.cross_replace, chosen.guidance) == ("object", "replace", (0.0, 0.7), 4.0)
    assert (chosen.blend.source_words, chosen.blend.edit_words) == (("circle",), ("square",))


CHECKS = {"README": check_readme, "controllers": check_controllers, "python": check_python}


def test_all_pages_with_python_are_found():
    assert CHECKS.keys() <= {page.stem for page in PAGES}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "example_workflows", tmp_path / "example_workflows")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FATEZERO_CACHE_DIR", str(tmp_path / "cache"))
    names = run(page)
    CHECKS.get(page.stem, lambda names: None)(names)
