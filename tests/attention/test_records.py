"""What is kept of a layer, against attention that is written out."""

import pytest
import torch
from diffusers.models.attention_processor import Attention

from fatezero_ext import InflationSettings, LayerAddress, Site
from fatezero_ext.attention.controlled_layer import cross_projection, kept_form
from fatezero_ext.attention.functional import plain
from fatezero_ext.attention.key_frames import key_frame_tensors
from fatezero_ext.attention.records import (
    FeatureRecord,
    MapRecord,
    StoredTensor,
    joined_frames,
    named_tensors,
    records_bytes,
    records_from,
)
from fatezero_ext.errors import StoreError
from fatezero_ext.inversion.footprint import ClipShape, recorded_forms
from fatezero_ext.inversion.recording import Capture, RecordAttention
from fatezero_ext.models.unet.inflate import controlled

from ..conftest import relative

FRAMES, SIDE, CLIP = 3, 16, ClipShape(3, 16, 16, 77)


def written_out(q, k, key_frames):
    """softmax(q k / sqrt(d)) [frames, heads, cells, keys], one frame and head at a time.

    q, k: [frames, heads, tokens, dim]; key_frames: for each frame those whose keys it reads
    """
    maps = []
    for frame, sources in enumerate(key_frames):
        keys = torch.cat([k[source] for source in sources], dim=1)  # [heads, keys, dim]
        scores = [a @ b.T / a.shape[-1] ** 0.5 for a, b in zip(q[frame], keys, strict=True)]
        maps.append(torch.stack(scores).softmax(-1))
    return torch.stack(maps)


def heads_of(x, heads):
    """[frames, tokens, (heads dim)] -> [frames, heads, tokens, dim]."""
    return torch.stack(x.chunk(heads, dim=-1), dim=1)


@pytest.fixture
def layer_of(model):
    return {str(layer.address): layer for layer in model.unet.layers}.__getitem__


@pytest.mark.parametrize("name", ["down.0.1.self", "mid.0.0.self", "up.3.2.self", "down.0.1.cross", "up.1.0.cross"])
def test_features_and_maps_of_the_same_queries_and_keys_apply_alike(model, noise, layer_of, name):
    layer, text = layer_of(name), noise(1, 77, 32)
    attn, site = layer.module, model.unet.source_sites(text, FRAMES, SIDE, SIDE)[layer.address]
    x = noise(FRAMES, site.cells, attn.query_dim)
    q = heads_of(attn.to_q(x), attn.heads)
    if site.is_cross:
        keys, key_frames = attn.to_k(text).expand(FRAMES, -1, -1), [(frame,) for frame in range(FRAMES)]
    else:
        keys, key_frames = attn.to_k(x), [(0, 0), (0, 0), (1, 0)]  # the frame before, and the first
    by_features = FeatureRecord(StoredTensor(q if site.is_cross else x))
    by_maps = MapRecord(StoredTensor(written_out(q, heads_of(keys, attn.heads), key_frames)))
    v = noise(FRAMES, attn.heads, keys.shape[1], attn.inner_dim // attn.heads)
    assert relative(by_features.apply(v, site), by_maps.apply(v, site)) < 1e-6
    assert relative(by_features.probs(v, site), by_maps.probs(v, site)) < 1e-6


@pytest.mark.parametrize("record", [FeatureRecord, MapRecord])
def test_a_record_in_half_precision_is_read_in_the_precision_of_the_values(model, noise, layer_of, record):
    layer = layer_of("down.1.0.self")
    site = model.unet.source_sites(noise(1, 77, 32), FRAMES, SIDE, SIDE)[layer.address]
    attn, cells = layer.module, site.cells
    shape = (FRAMES, cells, attn.query_dim) if record is FeatureRecord else (FRAMES, attn.heads, cells, 2 * cells)
    v = noise(FRAMES, attn.heads, cells, attn.inner_dim // attn.heads)
    kept = StoredTensor(noise(*shape).half())
    assert record(kept).apply(v, site).dtype == record(kept).probs(v, site).dtype == torch.float32
    assert record(kept).probs(v.half(), site).dtype == torch.float16


def test_of_two_clips_in_a_call_the_last_is_recorded(model, noise):
    clips, texts = noise(2 * FRAMES, 4, SIDE, SIDE), noise(2, 77, 32)
    forms = recorded_forms(model.unet, Capture(), "features", CLIP)
    both, alone = RecordAttention(forms), RecordAttention(forms)
    with torch.no_grad():
        model.unet(clips, 501, texts, frames=FRAMES, attend=both)
        model.unet(clips[FRAMES:], 501, texts[1:], frames=FRAMES, attend=alone)
    assert list(both.records) == list(alone.records) == list(forms)
    for at, record in alone.records.items():
        assert relative(both.records[at].kept.values, record.kept.values) < 1e-4
        assert both.records[at].kept.values.untyped_storage().nbytes() == record.kept.values.nbytes


def test_under_a_text_mask_cross_attention_is_kept_as_masked_maps(model, noise):
    latents, text, mask = noise(FRAMES, 4, SIDE, SIDE), noise(1, 77, 32), torch.ones(1, 77)
    mask[:, 20:] = 0
    recorder = RecordAttention(recorded_forms(model.unet, Capture(), "features", CLIP))
    with torch.no_grad():
        model.unet(latents, 501, text, frames=FRAMES, attend=recorder, text_mask=mask)
    for at, record in recorder.records.items():
        assert record.form == ("map" if at.kind == "cross" else "features")
        if at.kind == "cross":
            values = record.kept.values
            torch.testing.assert_close(values[..., :20].sum(-1), torch.ones(values.shape[:-1]))
            assert not values[..., 20:].any()


def test_a_layer_with_added_keys_is_kept_as_its_map(noise):
    address = LayerAddress("down", 0, 0, "cross")
    attn = Attention(16, 32, heads=2, dim_head=8, added_kv_proj_dim=32)
    assert kept_form(controlled(address, 0, (), attn), tokens=77) == "map"
    assert cross_projection(controlled(address, 0, (), attn), noise(1, 77, 32)) is None


def test_a_layer_that_does_not_tell_its_input_is_kept_as_its_map(noise):
    address = LayerAddress("down", 0, 0, "self")
    site = Site(address, FRAMES, 3, 4, 1, key_frame_tensors((-1, "first"), FRAMES, torch.device("cpu")))
    recorder, (q, k, v) = RecordAttention({address: "features"}), noise(3, FRAMES, 2, 12, 8)
    out = recorder(q, k, v, site)
    record = recorder.records[address]
    assert isinstance(record, MapRecord)
    wanted = written_out(q, k, [(0, 0), (0, 0), (1, 0)])
    torch.testing.assert_close(record.kept.values, wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(record.apply(v, site), out, rtol=0, atol=1e-5)


def test_wide_queries_on_a_short_text_are_kept_as_their_map():
    address = LayerAddress("down", 0, 0, "cross")
    attn = Attention(320, 32, heads=2, dim_head=160)
    layer = controlled(address, 0, (), attn)
    assert (kept_form(layer, tokens=77), kept_form(layer, tokens=154)) == ("map", "features")


@pytest.mark.parametrize("shared", [(-1,), (0, -2)])
def test_8_bit_values_come_back_within_half_a_step_of_their_scale(noise, shared):
    x = noise(3, 2, 50, 8) * torch.tensor([1e-6, 1.0, 1e4, 1, 1, 1, 1, 1])
    kept = StoredTensor(x).to_precision("int8", shared)
    peaks = x.abs().amax(dim=shared, keepdim=True)
    assert kept.scale.shape == peaks.shape and kept.values.dtype == torch.int8
    assert ((kept.restored() - x).abs() <= peaks / 127 / 2 * (1 + 1e-4)).all()


@pytest.mark.parametrize("shared", [(-1,), (0, -2)])
def test_the_highest_8_bit_value_of_a_scale_comes_back_whole(noise, shared):
    x = noise(3, 2, 50, 8)
    peaks = x.abs().amax(dim=shared, keepdim=True)
    got = StoredTensor(x).to_precision("int8", shared).restored().abs().amax(dim=shared, keepdim=True)
    torch.testing.assert_close(got, peaks)


@pytest.mark.parametrize("precision", ["as computed", "float32", "float16", "bfloat16", "int8"])
def test_zeros_stay_zeros(precision):
    assert not StoredTensor(torch.zeros(3, 4, 5)).to_precision(precision, (0, -2)).restored().any()


@pytest.mark.parametrize("computed", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_in_8_bits_within_its_scale(noise, computed):
    x = noise(3, 20, 8).to(computed)
    kept = StoredTensor(x).to_precision("int8", (0, -2))
    step = x.float().abs().amax(dim=(0, -2), keepdim=True) / 127
    assert kept.restored().isfinite().all()
    assert ((kept.restored() - x.float()).abs() <= 0.51 * step).all()


def test_8_bit_values_are_packed_once(noise):
    kept = StoredTensor(noise(3, 4, 5)).to_precision("int8", (-1,))
    assert kept.to_precision("float16", (-1,)) is kept


@pytest.mark.parametrize("precision", ["as computed", "int8"])
def test_a_page_comes_back_from_its_tensors_by_name(noise, precision):
    addresses = [LayerAddress("down", 0, 1, "self"), LayerAddress("up", 11, 0, "cross")]
    page = {
        at: record(StoredTensor(noise(2, 3, 4, 5)).to_precision(precision, record.shared))
        for at, record in zip(addresses, (FeatureRecord, MapRecord), strict=True)
    }
    named = named_tensors(page)
    again = records_from(dict(reversed(named.items())))
    assert {at: type(record) for at, record in again.items()} == {at: type(record) for at, record in page.items()}
    for at, record in page.items():
        assert all(a.equal(b) for a, b in zip(record.kept.tensors(), again[at].kept.tensors(), strict=True))
    assert records_bytes(page) == sum(tensor.nbytes for tensor in named.values())


@pytest.mark.parametrize("name", ["up.1.0.cross:sketch", "up.1.0.cross", "up.1.cross:map", "side.1.0.cross:map", ""])
def test_a_page_with_a_strange_name_is_refused(noise, name):
    with pytest.raises(StoreError, match="Invert again"):
        records_from({name: noise(2, 3)})


def test_kept_features_outlive_the_call_that_computed_them(model, noise):
    """Nothing later in the UNet may write into what is kept."""
    latents, text, seen = noise(FRAMES, 4, SIDE, SIDE), noise(1, 77, 32), {}

    def watching(q, k, v, site):
        seen[site.address] = (q if site.is_cross else site.inputs).clone()
        return plain(q, k, v, site)

    recorder = RecordAttention(recorded_forms(model.unet, Capture(), "features", CLIP), watching)
    with torch.no_grad():
        model.unet(latents, 501, text, frames=FRAMES, attend=recorder)
    assert all(record.kept.values.equal(seen[at]) for at, record in recorder.records.items())


@pytest.mark.parametrize(
    ("key_frames", "read"),
    [
        ((), [(0,), (1,), (2,)]),
        ((0, "mid", 1), [(0, 1, 1), (1, 1, 2), (2, 1, 2)]),
        (("last",), [(2,), (2,), (2,)]),
    ],
)
def test_kept_inputs_give_the_maps_of_any_key_frames(golden, noise, key_frames, read):
    unet = golden.unet(InflationSettings(key_frames=key_frames))
    layer = next(layer for layer in unet.layers if str(layer.address) == "down.1.0.self")
    site = unet.source_sites(noise(1, 77, 32), FRAMES, SIDE, SIDE)[layer.address]
    attn, x = layer.module, noise(FRAMES, site.cells, layer.module.query_dim)
    wanted = written_out(heads_of(attn.to_q(x), attn.heads), heads_of(attn.to_k(x), attn.heads), read)
    assert relative(FeatureRecord(StoredTensor(x)).probs(x, site), wanted) < 1e-6


@pytest.mark.parametrize("scale", [None, torch.ones(1)])
def test_frames_on_two_devices_are_joined_on_that_of_the_last(scale):
    left = StoredTensor(torch.zeros(1, 2), scale)
    joined = joined_frames([left, left.to(torch.device("meta"))])
    assert joined.values.device.type == "meta" and joined.values.shape == (2, 2)
    assert scale is None or joined.scale.device.type == "meta"
