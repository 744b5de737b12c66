"""A clip in parts: every frame once, each behind what it reads, and attention as in the whole clip."""

import weakref

import pytest
import torch

from fatezero_ext import InflationSettings, LayerAddress, SettingsError
from fatezero_ext.attention.clip_parts import CarriedKeys, PartCalls, joined, part_sites, split_clip, whole_clip
from fatezero_ext.attention.functional import plain
from fatezero_ext.attention.key_frames import resolve_key_frames

EXACT = {
    "own": (),
    "first": ("first",),
    "mid": ("mid",),
    "last": ("last",),
    "fixed": ("first", "mid", "last"),
    "before": (-1,),
    "published": (-1, "first"),
    "two before": (-2, -1),
    "behind": (1,),
    "behind and last": (2, "last"),
    "itself": (0, "first"),
}
"""Key frames with which clips can be split into parts of three frames."""


@pytest.mark.parametrize("keys", EXACT.values(), ids=list(EXACT))
@pytest.mark.parametrize("frames", [4, 9, 10])
@pytest.mark.parametrize("at_once", [3, 4, 8])
def test_every_frame_is_computed_once_behind_the_frames_that_it_reads(keys, frames, at_once):
    tables = resolve_key_frames(keys, frames)
    parts, done, carried = split_clip(tables, frames, at_once), set(), set()
    for number, part in enumerate(parts):
        assert part.number == number and 1 <= len(part.frames) <= at_once
        assert set(part.before) <= carried and not done & set(part.frames)
        read = {table[frame] for table in tables for frame in part.frames}
        assert read <= {*part.before, *part.frames}
        done |= set(part.frames)
        carried = {*part.before, *part.carried}
    assert done == set(range(frames))


def test_only_frames_that_later_parts_read_are_carried():
    parts = split_clip(resolve_key_frames((-1, "first"), 9), 9, 3)
    assert [(part.frames, part.before) for part in parts] == [
        ((0, 1, 2), ()), ((3, 4, 5), (0, 2)), ((6, 7, 8), (0, 5))
    ]  # fmt: skip
    assert [part.last_read for part in parts] == [(), (2,), (0, 5)]
    assert split_clip((), 9, 4)[1].before == ()


@pytest.mark.parametrize("at_once", [0, 5, 6, 99])
def test_a_clip_is_whole_where_all_of_it_is_allowed_at_once(at_once):
    assert split_clip(resolve_key_frames((-1, "first"), 5), 5, at_once) == whole_clip(5)


@pytest.mark.parametrize(
    ("keys", "least"), [((-1, 1), 9), ((-1, "mid"), 5), ((-1, "last"), 9), (("first", "mid", "last"), 3)]
)
def test_frames_that_read_each_other_are_not_split(keys, least):
    tables = resolve_key_frames(keys, 9)
    with pytest.raises(SettingsError, match=rf"frames_at_once is 2, but {least} frames .* Use {least} or more"):
        split_clip(tables, 9, 2)
    assert max(len(part.frames) for part in split_clip(tables, 9, least)) == least


def test_a_clip_of_thousands_of_frames_is_split_without_a_table_of_all_pairs():
    frames = 20_000  # pairs of which would take gigabytes
    parts = split_clip(resolve_key_frames((-1, "first"), frames), frames, 8)
    assert [(part.frames[0], part.before) for part in parts[-2:]] == [(19984, (0, 19983)), (19992, (0, 19991))]


def test_frames_of_parts_come_back_to_their_places(noise):
    clip, parts = noise(9, 2, 3), split_clip(resolve_key_frames(("mid",), 9), 9, 2)
    assert [part.of(clip).shape[0] for part in parts] == [2, 2, 2, 2, 1]
    assert joined(parts, [part.of(clip) for part in parts]).equal(clip)
    assert joined(whole_clip(9), [clip]) is clip and whole_clip(9)[0].of(clip) is clip


def test_keys_that_no_later_part_reads_are_held_no_longer_once_they_are_taken(noise):
    _, second, third = parts = split_clip(resolve_key_frames((-1, "first"), 9), 9, 3)
    carried, at = CarriedKeys(), LayerAddress("down", 0, 0, "self")
    for part in parts[:2]:
        carried.begin(part)
        taken = carried.take_before(at, part)
        carried.carry(at, part, noise(3, 2, 4, 8), noise(3, 2, 4, 8))
    first, last_read = (weakref.ref(k) for k, _ in taken)  # of the frames 0 and 2
    del taken
    assert second.last_read == (2,) and last_read() is None and first() is not None
    carried.begin(third)
    carried.take_before(at, third)
    assert first() is None


@pytest.mark.parametrize("texts", [1, 2])
@pytest.mark.parametrize("keys", [("mid",), (-1, "first"), (1, -0, "last")], ids=str)
def test_attention_of_parts_is_that_of_the_whole_clip(golden, noise, keys, texts):
    unet = golden.unet(InflationSettings(key_frames=keys, norm="frame"))
    sites = unet.sites(7, 8, 8)
    at, site = next((at, site) for at, site in sites.items() if site.key_frames)
    q, k, v = (noise(texts, 7, 2, site.cells, 4) for _ in range(3))
    whole = plain(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), site)
    parts = unet.parts(7, 3)
    calls, pieces = PartCalls(parts, sites, texts), []
    for part in parts:
        of_call = unet.sites(len(part.frames), 8, 8)[at]
        own = (x[:, part.rows].flatten(0, 1) for x in (q, k, v))
        pieces.append(calls.attend(plain, part)(*own, of_call).unflatten(0, (texts, -1)).transpose(0, 1))
    torch.testing.assert_close(joined(parts, pieces).transpose(0, 1).flatten(0, 1), whole)


def test_layers_of_a_part_have_their_own_keys_where_they_have_them_in_the_clip(golden):
    unet = golden.unet(InflationSettings(key_frames=("first",), least_sc_channel=32, norm="frame"))
    part = unet.parts(5, 2)[1]
    for at, site in part_sites(unet.sites(5, 8, 8), part).items():
        shares = bool(unet.sites(5, 8, 8)[at].key_frames)
        assert (site.frames, site.before, len(site.key_frames)) == (2, int(shares), int(shares))


@pytest.mark.parametrize("frames_at_once", [-1, 2.5, True, "8", None])
def test_what_is_no_number_of_frames_is_refused(golden, frames_at_once):
    with pytest.raises(SettingsError, match="frames_at_once is .*whole number of frames"):
        golden.unet(InflationSettings(norm="frame")).parts(9, frames_at_once)


def test_a_unet_with_norms_over_all_frames_is_split_unless_its_blocks_do_more_than_is_known(golden):
    unet = golden.unet(InflationSettings(key_frames=()))
    assert len(unet.parts(9, 3)) == 3
    unet.net.enable_freeu(s1=0.9, s2=0.2, b1=1.1, b2=1.2)
    with pytest.raises(SettingsError, match="frames_at_once is 2.*normalises over all frames.*FreeU.*norm 'frame'"):
        unet.parts(9, 2)
    assert unet.parts(9, 9) == whole_clip(9)
    unet.net.disable_freeu()
    hook = unet.net.down_blocks[0].register_forward_hook(lambda *_given: None)
    with pytest.raises(SettingsError, match="hooks on its blocks or norms, which would not be called"):
        unet.parts(9, 2)
    hook.remove()
    assert len(unet.parts(9, 3)) == 3


def test_parts_wait_for_each_other_where_layers_over_time_are_trained(golden):
    from fatezero_ext.models.unet.inflate import TemporalLayers

    for rank in (None, 4):
        settings = InflationSettings(norm="frame", key_frames=(), temporal=TemporalLayers(rank=rank))
        unet = golden.unet(settings)
        assert not unet.joins_parts
        name, trained = next((n, p) for n, p in unet.net.named_parameters() if "_temporal" in n and n.endswith("up.weight" if rank else "conv_temporal.weight"))  # fmt: skip  # noqa: E501
        trained.data.add_(0.1)
        assert unet.joined_by == "has trained layers over time" and unet.waiting_memory(1, 9, 8, 8) > 0
        trained.data.sub_(0.1)
    attention = next(m for m in unet.net.modules() if hasattr(m, "attn_temporal")).attn_temporal
    attention.to_out[0].bias.data.fill_(1.0)
    assert not unet.joins_parts  # adds the same to each frame
    attention.to_out[0].weight.data[0, 0] = 1.0
    assert unet.joins_parts and len(unet.parts(9, 3)) == 3


def test_a_tuned_unet_goes_in_parts(golden):
    from fatezero_ext.models.unet.inflate import TemporalLayers

    for norm in ("frame", "clip"):
        tuned = golden.unet(InflationSettings(norm=norm, temporal=TemporalLayers()), tuned=True)
        assert tuned.joins_parts and not tuned.joins_norms_alone and len(tuned.parts(9, 3)) == 3
    assert golden.unet(InflationSettings()).joins_norms_alone
