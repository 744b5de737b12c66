"""A UNet whose norms run over all frames, computed for all parts of a clip together, layer by layer."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fatezero_ext import InflationSettings
from fatezero_ext.attention.clip_parts import PartCalls, joined
from fatezero_ext.models.unet import lock_step
from fatezero_ext.models.unet.temporal import ClipGroupNorm, ClipStatistics


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

    def pop(self):
        return self._here(self._tensors.pop())

    @property
    def top(self):
        return self._here(self._tensors[-1])

    @staticmethod
    def _here(x):
        return x if torch.is_tensor(x) else torch.from_numpy(x.copy())

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
            self.most = max(self.most, sum({each.data_ptr(): each.nbytes() for each in storages}.values()))
        return out


def most_bytes(unet, x, text, at_once):
    with MostBytes() as watch, torch.no_grad():
        in_parts(unet, x, text, at_once)
    return watch.most


def test_the_device_holds_the_layers_of_one_part_however_long_the_clip(golden, noise, monkeypatch):
    monkeypatch.setattr(lock_step, "Waiting", Elsewhere)
    unet, text = golden.unet(), noise(1, 77, 32)
    x = noise(16, 4, 16, 16)
    short, long = (most_bytes(unet, x[:frames], text, 2) for frames in (4, 16))
    # What grows are latents and time embeddings, a few hundred numbers a frame, beside 100 thousand of a part.
    assert long < 1.15 * short and long < 0.3 * most_bytes(unet, x, text, 16)


def test_what_waits_is_counted_from_shapes(golden, noise, monkeypatch):
    waiting, most = [], [0]

    class Counted(Elsewhere):
        def __init__(self, x):
            super().__init__(x)
            waiting.append(self)

        def leave_device(self):
            super().leave_device()
            most[0] = max(most[0], sum(x.nbytes for parked in waiting for x in parked._tensors))

    monkeypatch.setattr(lock_step, "Waiting", Counted)
    unet = golden.unet()
    with torch.no_grad():
        in_parts(unet, noise(4, 4, 16, 16), noise(1, 77, 32), 2)
    bound = unet.waiting_memory(1, 4, 16, 16)
    assert 0.4 * bound < most[0] <= bound
    assert golden.unet(InflationSettings(norm="frame")).waiting_memory(1, 4, 16, 16) == 0


def test_what_stays_is_copied_off_the_device_once():
    """A device that gives nothing back: a second copy from there would fail."""
    waiting = lock_step.Waiting(torch.ones(2))
    waiting._device = torch.device("meta")
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
