"""What is freed leaves the process, whatever stays between the blocks."""

import json
import platform
import subprocess
import sys

import pytest

from fatezero_ext import InflationSettings, Storage
from fatezero_ext.inversion import guided_prediction

from ..small_runs import inverted

FREED = """
import json, psutil, torch
from fatezero_ext.memory.freed_blocks import give_back_freed_blocks
torch.ones(2**22)  # 16 MiB: freed, it is the size up to which glibc keeps blocks from now on
process = psutil.Process()
before, kept, blocks = process.memory_info().rss, [], []
for _ in range(100):
    blocks.append(torch.ones(2**19))
    kept.append(torch.ones(2**14))
held = process.memory_info().rss - before
del blocks
give_back_freed_blocks()
print(json.dumps([held, process.memory_info().rss - before]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_freed_blocks_leave_the_process():
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    held, left = json.loads(done.stdout)
    assert held > 190 * 2**20 and left < held / 4


@pytest.mark.parametrize(("norm", "at_once", "times"), [("frame", 0, 0), ("frame", 2, 4), ("clip", 2, 2)])
def test_memory_is_given_back_before_each_call_of_a_clip_in_parts(golden, model, monkeypatch, norm, at_once, times):
    given_back = []
    monkeypatch.setattr(guided_prediction, "give_back_freed_blocks", lambda: given_back.append(1))
    unet = golden.unet(InflationSettings(norm=norm))
    inverted(model, Storage("recompute"), unet=unet, steps=2, frames_at_once=at_once)
    assert len(given_back) == times
