"""Stored pages cut into the parts of an edit, and what is carried from part to part."""

import pytest
import torch

from fatezero_ext.attention.clip_parts import split_clip, whole_clip
from fatezero_ext.attention.key_frames import resolve_key_frames
from fatezero_ext.attention.records import FeatureRecord, MapRecord, StoredTensor
from fatezero_ext.attention.sites import LayerAddress
from fatezero_ext.inversion.source_parts import CarriedFrames, StoredPages

FRAMES = 9
FIRST, SECOND = LayerAddress("down", 0, 0, "self"), LayerAddress("up", 1, 0, "cross")
KEYS = {"own": (), "mid": ("mid",), "published": (-1, "first"), "behind": (1,)}


def parts_of(keys, at_once):
    return split_clip(resolve_key_frames(KEYS[keys], FRAMES), FRAMES, at_once)


def page(step, frames, precision="as computed"):
    """Records whose rows say step and frame."""
    rows = torch.tensor([100.0 * step + frame for frame in frames])[:, None, None].expand(-1, 2, 3)
    kept = [record(StoredTensor(rows.clone()).to_precision(precision, record.shared)) for record in RECORDS]
    return dict(zip((FIRST, SECOND), kept, strict=True))


RECORDS = (FeatureRecord, MapRecord)


class Counted:
    """A store of pages in parts that counts its reads."""

    def __init__(self, parts, precision):
        self.parts, self.precision, self.reads = (
            [part.frames for part in parts] if len(parts) > 1 else (),
            precision,
            [],
        )

    def read(self, step, part=0):
        self.reads.append((step, part))
        return page(step, self.parts[part] if self.parts else range(FRAMES), self.precision)


@pytest.mark.parametrize("precision", ["as computed", "int8"])
@pytest.mark.parametrize("written", [2, 4, FRAMES])
@pytest.mark.parametrize("read", [2, 3, FRAMES])
@pytest.mark.parametrize("keys", KEYS)
def test_rows_of_a_part_are_those_of_its_frames_and_each_file_is_read_once_a_step(keys, written, read, precision):
    store, parts = Counted(parts_of(keys, written), precision), parts_of(keys, read)
    pages = StoredPages(store, parts, FRAMES)
    for step in (3, 1):
        for part in parts:
            found = pages.read(step, part.number, {FIRST, SECOND})
            assert list(found) == [FIRST, SECOND] and isinstance(found[SECOND], MapRecord)
            for record in found.values():
                wanted = torch.tensor([100.0 * step + frame for frame in part.frames])
                torch.testing.assert_close(record.kept.restored()[:, 0, 0], wanted)
    assert len(store.reads) == len(set(store.reads)) == 2 * max(1, len(store.parts))


@pytest.mark.parametrize("rows", [slice(1, 3), [0, 4]], ids=["following", "apart"])
def test_a_frame_takes_its_scale_along(noise, rows):
    kept = StoredTensor(noise(5, 4, 3)).to_precision("int8", FeatureRecord.shared)
    assert kept.frames(rows).restored().equal(kept.restored()[rows])


def test_a_part_s_own_8_bit_values_are_those_of_the_whole_clip(noise):
    x, shared = noise(6, 4, 3), FeatureRecord.shared
    whole = StoredTensor(x).to_precision("int8", shared)
    assert StoredTensor(x[2:4]).to_precision("int8", shared).restored().equal(whole.frames(slice(2, 4)).restored())


@pytest.mark.parametrize("keys", KEYS)
def test_frames_before_a_part_stand_in_front_of_its_own(keys):
    carried = CarriedFrames()
    for step in (0, 1):
        for part in parts_of(keys, 3):
            for _again in range(2):  # as after a call that ran out of memory
                (record,) = carried.with_before(page(step, part.frames), part, [FIRST]).values()
                wanted = [100.0 * step + frame for frame in (*part.before, *part.frames)]
                assert record.kept.values[:, 0, 0].tolist() == wanted


def test_a_whole_page_is_handed_on_without_a_copy():
    store, given = Counted(whole_clip(FRAMES), "as computed"), page(0, range(FRAMES))
    store.read = lambda *_place: given
    found = StoredPages(store, whole_clip(FRAMES), FRAMES).read(0, 0, {FIRST})
    assert found[FIRST] is given[FIRST]
    assert CarriedFrames().with_before(found, whole_clip(FRAMES)[0], [FIRST])[FIRST] is given[FIRST]
