"""Every attention kernel computes the same."""

import sys

import pytest
import torch

from fatezero_ext import LayerAddress, Site, Storage, load_model, plain
from fatezero_ext.attention.functional import explicit
from fatezero_ext.attention.kernels import has_fused_sdpa, has_xformers, kernel
from fatezero_ext.attention.key_frames import key_frame_tensors
from fatezero_ext.errors import SettingsError

from ..conftest import GOLDEN, relative
from ..small_runs import ROUNDING, edited, inverted

CPU = torch.device("cpu")
ADDRESS = LayerAddress("down", 0, 0, "self")
FRAMES, HEADS, HEIGHT, WIDTH, DIM = 5, 3, 3, 4, 8


def called(noise, key_frames, *, with_bias, device=CPU, dtype=torch.float32, dim=DIM):
    """q, k, v of two clips, and the site of their call."""
    site = Site(ADDRESS, FRAMES, HEIGHT, WIDTH, 1, key_frame_tensors(key_frames, FRAMES, device))
    q, k, v = (noise(2 * FRAMES, HEADS, site.cells, dim).to(device, dtype) for _ in "qkv")
    if with_bias:
        keys = site.cells * max(1, len(key_frames))
        drops = torch.rand(2 * FRAMES, 1, site.cells, keys, generator=torch.Generator().manual_seed(3)) < 0.3
        bias = drops.float() * -10_000 + noise(2 * FRAMES, 1, site.cells, keys)
        site = Site(ADDRESS, FRAMES, HEIGHT, WIDTH, 1, site.key_frames, bias=bias.to(device, dtype))
    return q, k, v, site


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("key_frames", [(), (-1, "first"), (0, "mid", 1)])
@pytest.mark.parametrize("name", ["auto", "sdpa", "sliced"])
def test_a_kernel_computes_as_the_explicit_one(noise, name, key_frames, with_bias):
    given = called(noise, key_frames, with_bias=with_bias)
    wanted = kernel("explicit", CPU, torch.float32)(*given)
    torch.testing.assert_close(kernel(name, CPU, torch.float32)(*given), wanted, rtol=0, atol=1e-5)


def test_the_explicit_kernel_is_attention_written_out(noise):
    q, k, v, site = called(noise, (-1, "first"), with_bias=True)
    wanted = torch.empty_like(q)
    for row in range(2 * FRAMES):
        clip, frame = divmod(row, FRAMES)
        sources = [clip * FRAMES + max(frame - 1, 0), clip * FRAMES]
        keys, values = (torch.cat([x[source] for source in sources], dim=1) for x in (k, v))
        for head in range(HEADS):
            scores = q[row, head] @ keys[head].T / DIM**0.5 + site.bias[row, 0]
            wanted[row, head] = scores.exp() / scores.exp().sum(-1, keepdim=True) @ values[head]
    torch.testing.assert_close(kernel("explicit", CPU, torch.float32)(q, k, v, site), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_a_cpu_auto_is_sdpa(dtype):
    assert kernel("auto", CPU, dtype) is kernel("sdpa", CPU, dtype) is plain


def test_on_a_device_without_fused_kernels_auto_makes_few_maps_at_once(noise):
    unknown = torch.device("xpu")
    assert not has_fused_sdpa(unknown, torch.float16) and not has_xformers(unknown)
    chosen = kernel("auto", unknown, torch.float32)
    assert chosen is not plain and chosen is not explicit
    given = called(noise, (-1, "first"), with_bias=True)
    torch.testing.assert_close(chosen(*given), explicit(*given), rtol=0, atol=1e-5)


def test_xformers_on_a_cpu_is_refused():
    with pytest.raises(SettingsError, match="xformers is asked for, but .* for the device 'cpu'.*Choose auto or sdpa"):
        kernel("xformers", CPU, torch.float32)
    with pytest.raises(SettingsError, match="xformers is asked for"):
        load_model(GOLDEN / "model", attention="xformers")


def test_an_xformers_that_cannot_be_imported_is_as_good_as_none(monkeypatch, tmp_path):
    (tmp_path / "xformers").mkdir()
    (tmp_path / "xformers" / "__init__.py").write_text("")
    (tmp_path / "xformers" / "ops.py").write_text("raise ImportError('undefined symbol')")
    for name in ("xformers", "xformers.ops"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not has_xformers(torch.device("cuda"))
    with pytest.raises(SettingsError, match="xformers is asked for, but it is not installed, is broken or"):
        kernel("xformers", torch.device("cuda"), torch.float32)


def test_an_unknown_kernel_is_refused_with_the_known_ones():
    with pytest.raises(SettingsError, match="'flash'.*auto, sdpa, xformers, sliced, explicit"):
        kernel("flash", CPU, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "policy"), [("sliced", "features"), ("explicit", "maps")])
def test_an_edit_with_another_kernel_is_the_same_edit(model, name, policy):
    other = load_model(GOLDEN / "model", attention=name)
    got, wanted = (edited(one, inverted(one, Storage(policy), steps=3)) for one in (other, model))
    assert relative(got, wanted) < ROUNDING


@pytest.mark.slow
def test_the_source_runs_again_with_the_kernel_it_was_inverted_with():
    other = load_model(GOLDEN / "model", attention="sliced")
    kept, again = (edited(other, inverted(other, Storage(policy), steps=3)) for policy in ("features", "recompute"))
    assert again.equal(kept)


@pytest.mark.gpu
@pytest.mark.skipif(not has_xformers(torch.device("cuda")) or not torch.cuda.is_available(), reason="needs xformers")
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("key_frames", [(), (-1, "first"), (0, "mid", 1)])
def test_on_a_gpu_xformers_computes_as_the_explicit_kernel(noise, key_frames, with_bias):
    cuda = torch.device("cuda")
    given = called(noise, key_frames, with_bias=with_bias, device=cuda, dtype=torch.float16, dim=40)
    wanted = explicit(*given)
    torch.testing.assert_close(kernel("xformers", cuda, torch.float16)(*given), wanted, rtol=0, atol=5e-3)
