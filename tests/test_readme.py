"""The README's Python, run as it stands."""

import re
import runpy
import shutil
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "example_workflows", tmp_path / "example_workflows")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 4
    Path("readme.py").write_text("\n".join(blocks))
    names = runpy.run_path("readme.py")
    assert Path("edited.mp4").stat().st_size > 1000
    # The words' tokens agree one to one, so the third party's swap and ours are the same.
    settings = names["EditSettings"](cross_replace=8 / 11, self_replace=0.8, guidance=3.0)
    ours = names["edit"](names["recorded"], names["model"].text_encoder, "a blue circle on the grass", settings)
    torch.testing.assert_close(names["edited"].latents, ours.latents, rtol=0, atol=1e-3)
