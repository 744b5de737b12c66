"""A UNet whose norms run over all frames, computed for all parts of a clip together, layer by layer."""

import weakref
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fatezero_ext import InflationSettings, SettingsError, TemporalLayers
from fatezero_ext.attention.clip_parts import PartCalls, joined
from fatezero_ext.models.unet import lock_step
from fatezero_ext.models.unet.temporal import (
    TEMPORAL_POSITIONS,
    ClipGroupNorm,
    ClipStatistics,
    PseudoConv3d,
    identity_temporal_conv,
)

from ..small_runs import trained_over_time


def in_parts(unet, x, text, at_once):
    """The prediction of a clip under all texts, [texts, frames, ..], and the parts it was computed in."""
    parts = unet.parts(len(x), at_once)
    calls = PartCalls(parts, unet.sites(len(x), *x.shape[-2:]), texts=len(text))
    attends = [calls.attend(unet.kernel, part) for part in parts]
    predicted = unet.predict_parts([part.of(x) for part in parts], 501, text, attends)
    pieces = [each.unflatten(0, (len(text), -1)).transpose(0, 1) for each in predicted]
    return joined(parts, pieces).transpose(0, 1), parts


@pytest.mark.parametrize("size", [(16, 16), (8, 12), (9, 13)], ids=str)  # the last: what goes up has odd sides
@pytest.mark.parametrize("keys", [(), ("mid",), (-1, "first")], ids=str)
def test_a_clip_in_parts_is_predicted_as_the_whole_one(golden, noise, keys, size):
    unet = golden.unet(InflationSettings(key_frames=keys))
    unet.net.double()
    x, text = noise(5, 4, *size).double(), noise(2, 77, 32).double()
    with torch.no_grad():
        whole = unet(x, 501, text, frames=5).unflatten(0, (2, 5))
        for at_once in (1, 2):
            predicted, parts = in_parts(unet, x, text, at_once)
            assert len(parts) > 2
            torch.testing.assert_close(predicted, whole, atol=1e-9, rtol=1e-9)


LAYERS = {position: TemporalLayers(position=position) for position in TEMPORAL_POSITIONS}
LAYERS |= {"low rank": TemporalLayers(rank=4), "attention alone": TemporalLayers(convolutions=False)}
NORMS = pytest.mark.parametrize("norm", ["clip", "frame"])


@NORMS
@pytest.mark.parametrize("layers", LAYERS.values(), ids=list(LAYERS))
def test_trained_layers_over_time_see_the_whole_clip(golden, noise, layers, norm):
    """In parts that follow each other, and in parts whose frames do not: the frame in the middle comes first."""
    for keys in ((-1, "first"), ("mid",)):
        unet = trained_over_time(golden.unet(InflationSettings(key_frames=keys, norm=norm, temporal=layers)))
        unet.net.double()
        x, text = noise(5, 4, 9, 13).double(), noise(2, 77, 32).double()
        with torch.no_grad():
            whole = unet(x, 501, text, frames=5).unflatten(0, (2, 5))
            alone = unet(x[:2], 501, text, frames=2).unflatten(0, (2, 2))
            predicted, parts = in_parts(unet, x, text, 2)
        assert len(parts) > 2 and (alone[:, 1] - whole[:, 1]).abs().max() > 1e-3
        torch.testing.assert_close(predicted, whole, atol=1e-9, rtol=1e-9)


@NORMS
@pytest.mark.parametrize("name", ["conv_temporal", "attn_temporal.to_out.0.bias"])
def test_some_layers_over_time_may_be_untrained(golden, noise, name, norm):
    """Their biases count all the same."""
    unet = golden.unet(InflationSettings(key_frames=(), norm=norm, temporal=TemporalLayers()))
    trained_over_time(unet, lambda each: name in each).net.double()
    x, text = noise(5, 4, 8, 12).double(), noise(1, 77, 32).double()
    with torch.no_grad():
        predicted, parts = in_parts(unet, x, text, 2)
        torch.testing.assert_close(predicted[0], unet(x, 501, text, frames=5), atol=1e-9, rtol=1e-9)
    assert len(parts) == 3 and unet.joins_parts == (norm == "clip" or name == "conv_temporal")


@NORMS
def test_a_call_asks_each_layer_over_time_once_whether_it_is_trained(golden, noise, monkeypatch, norm):
    asked, ask = Counter(), PseudoConv3d.leaves_frames_apart.fget
    monkeypatch.setattr(PseudoConv3d, "leaves_frames_apart", property(lambda at: (asked.update([at]), ask(at))[1]))
    unet = trained_over_time(golden.unet(InflationSettings(key_frames=(), norm=norm, temporal=TemporalLayers())))
    x, text = noise(4, 4, 8, 8), noise(1, 77, 32)
    asked.clear()
    with torch.no_grad():
        unet.predict_parts(x.split(2), 501, text, [None, None])
    assert asked == Counter(each for each in unet.net.modules() if isinstance(each, PseudoConv3d))


class Operations(TorchDispatchMode):
    """Counts the operations of torch."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def test_whether_a_convolution_over_time_is_the_identity_takes_few_operations_however_wide_it_is():
    counts = []
    for channels in (4, 64):
        layer = nn.Conv2d(channels, channels, 1)
        layer.__class__ = PseudoConv3d
        layer.conv_temporal = identity_temporal_conv(channels, 3)
        with Operations() as made:
            assert layer.leaves_frames_apart
        counts.append(made.count)
        weight = layer.conv_temporal.weight.data
        for at, value in (((0, 0, 0), 1e-6), ((1, 0, 1), -1.0), ((2, 2, 1), 0.5), ((3, 3, 1), torch.nan)):
            before, weight[at] = weight[at].clone(), value
            assert not layer.leaves_frames_apart
            weight[at] = before
    assert counts[0] == counts[1]


def test_a_hook_on_a_block_that_attends_over_time_keeps_the_clip_whole(golden):
    settings = InflationSettings(norm="frame", key_frames=(), temporal=TemporalLayers())
    unet = trained_over_time(golden.unet(settings))
    block = unet.net.mid_block.attentions[0].transformer_blocks[0]
    hook = block.register_forward_hook(lambda *_given: None)
    with pytest.raises(SettingsError, match="has trained layers over time.*hooks on its blocks.*without layers over"):
        unet.parts(5, 2)
    hook.remove()
    assert len(unet.parts(5, 2)) == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_statistics_of_parts_of_any_length_are_those_of_the_whole(noise, dtype):
    norm = ClipGroupNorm(4, 8, dtype=dtype)
    norm.weight.data, norm.bias.data = noise(8).to(dtype), noise(8).to(dtype)
    x = (3 + noise(2, 6, 8, 3, 5)).to(dtype)  # [chunks, frames, channels, ..]
    wide = torch.nn.functional.group_norm(x.double().transpose(1, 2), 4, norm.weight.double(), norm.bias.double())
    pieces = [piece.flatten(0, 1) for piece in x.split([1, 2, 3], dim=1)]
    normalise = norm.normaliser(ClipStatistics.of_all([norm.statistics(piece, 2) for piece in pieces]))
    found = torch.cat([normalise(piece).unflatten(0, (2, -1)) for piece in pieces], dim=1)
    assert found.dtype == dtype
    near = 1e-9 if dtype == torch.float64 else 2e-2  # the result is rounded to 8 bits
    torch.testing.assert_close(found.double(), wide.transpose(1, 2), atol=near, rtol=near)


class Elsewhere(lock_step.Waiting):
    """What waits, as arrays of numpy: as on another device, so that torch's tensors are those of this one."""

    all = weakref.WeakSet()

    def __init__(self, x):
        super().__init__(x)
        self.all.add(self)

    @classmethod
    def addresses(cls):
        return {x.ctypes.data for waiting in cls.all for x in waiting._tensors if not torch.is_tensor(x)}

    def pop(self):
        return self._here(self._tensors.pop())

    @property
    def top(self):
        return self._here(self._tensors[-1])

    @staticmethod
    def _here(x):
        return x if torch.is_tensor(x) else torch.from_numpy(x.copy())

    @property
    def waiting_top(self):
        return torch.from_numpy(self._tensors[-1])

    @property
    def size_below(self):
        return torch.Size(self._tensors[-2].shape[2:])

    def leave_device(self):
        self._tensors = [x.numpy().copy() if torch.is_tensor(x) else x for x in self._tensors]


class MostBytes(TorchDispatchMode):
    """The most bytes of tensors that live at the same time."""

    def __init__(self):
        super().__init__()
        self.alive, self.most = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.alive = [ref for ref in self.alive if ref() is not None] + [weakref.ref(out)]
            storages = [x.untyped_storage() for ref in self.alive if (x := ref()) is not None]
            here = {each.data_ptr(): each.nbytes() for each in storages}
            self.most = max(self.most, sum(here[at] for at in here.keys() - Elsewhere.addresses()))
        return out


def most_bytes(unet, x, text, at_once):
    with MostBytes() as watch, torch.no_grad():
        in_parts(unet, x, text, at_once)
    return watch.most


@pytest.mark.parametrize("layers", [None, TemporalLayers()], ids=["norms", "layers over time"])
def test_the_device_holds_the_layers_of_one_part_however_long_the_clip(golden, noise, monkeypatch, layers):
    monkeypatch.setattr(lock_step, "Waiting", Elsewhere)
    unet, text = trained_over_time(golden.unet(InflationSettings(temporal=layers))), noise(1, 77, 32)
    x = noise(16, 4, 16, 16)
    short, long = (most_bytes(unet, x[:frames], text, 2) for frames in (4, 16))
    # What grows are latents and time embeddings, a few hundred numbers a frame, beside 100 thousand of a part.
    assert long < 1.15 * short and long < 0.3 * most_bytes(unet, x, text, 16)


@pytest.mark.parametrize("layers", [None, TemporalLayers()], ids=["norms", "layers over time"])
def test_what_waits_is_counted_from_shapes(golden, noise, monkeypatch, layers):
    waiting, most = [], [0]

    class Counted(Elsewhere):
        def __init__(self, x):
            super().__init__(x)
            waiting.append(self)

        def leave_device(self):
            super().leave_device()
            most[0] = max(most[0], sum(x.nbytes for parked in waiting for x in parked._tensors))

    monkeypatch.setattr(lock_step, "Waiting", Counted)
    unet = trained_over_time(golden.unet(InflationSettings(temporal=layers)))
    with torch.no_grad():
        in_parts(unet, noise(4, 4, 16, 16), noise(1, 77, 32), 2)
    bound = unet.waiting_memory(1, 4, 16, 16)
    assert 0.4 * bound < most[0] <= bound
    assert golden.unet(InflationSettings(norm="frame")).waiting_memory(1, 4, 16, 16) == 0


def test_what_stays_is_copied_off_the_device_once():
    """A device that gives nothing back: a second copy from there would fail."""
    waiting = lock_step.Waiting(torch.ones(2))
    waiting.device = torch.device("meta")
    assert waiting.top.is_meta
    waiting.leave_device()
    assert waiting._tensors[0].tolist() == [1, 1]


@pytest.mark.parametrize("of", ["norm1", "conv_norm_out"])
def test_a_hook_on_a_norm_keeps_the_clip_whole(golden, of):
    """Programs that bring weights layer by layer hook norms too, and these are not called."""
    unet = golden.unet()
    norm = unet.net.conv_norm_out if of == "conv_norm_out" else unet.net.up_blocks[0].resnets[0].norm1
    hook = norm.register_forward_pre_hook(lambda *_given: None)
    assert "hooks on its blocks or norms" in unet.needs_whole_clip
    hook.remove()
    assert not unet.needs_whole_clip
