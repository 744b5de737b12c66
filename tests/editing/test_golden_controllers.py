"""The edit's attention, layer by layer, against the authors' controllers on a random store.

The reference gives maps, our seam takes queries and keys: with keys = identity and queries = log of the map the softmax
gives the map back, and with values = identity the output is the edited map itself.
"""

import pytest
import torch

from fatezero_ext.attention.records import MapRecord, StoredTensor
from fatezero_ext.attention.sites import LayerAddress, Site
from fatezero_ext.editing.attention import EditAttention
from fatezero_ext.editing.masks import word_heat
from fatezero_ext.editing.plan import compile_edit
from fatezero_ext.editing.settings import BlendSettings
from fatezero_ext.inversion.source_reader import SourceAttention
from fatezero_ext.prompts.prompt import read_prompt

from ..small_runs import named

STEPS = 4
BLEND_MAPS = ("down_cross.2", "down_cross.3", "up_cross.0", "up_cross.1", "up_cross.2")


@pytest.fixture(scope="module")
def units(golden):
    return golden.json("units/controllers"), golden.tensors("units/controllers")


def site_of(layer, queries):
    place, number = layer.split(".")
    stage, kind = place.split("_")
    side = int(queries**0.5)
    return Site(LayerAddress(stage, 0, int(number), kind), frames=1, height=side, width=side, downscale=1)


def settings_of(kwargs):
    blend = kwargs.get("blend_words")
    windows = dict(kwargs["cross_replace_steps"])
    equalizer = kwargs.get("equilizer_params", {"words": [], "values": []})
    return named(
        mode="replace" if kwargs["is_replace_controller"] else "refine",
        cross_replace=windows.pop("default_"),
        cross_replace_words=windows,
        self_replace=kwargs["self_replace_steps"],
        equalizer=dict(zip(equalizer["words"], equalizer["values"], strict=True)),
        blend=blend and BlendSettings(tuple(blend[0]), tuple(blend[1]), threshold=kwargs["blend_th"][0]),
        quirks="original",
    )


def edited_map(attend, own, site):
    """What `attend` makes of a map, in the second half of a guided batch."""
    keys = own.shape[-1]
    q = (own.clamp_min(1e-30).log() * keys**0.5).repeat(2, 1, 1, 1)
    identity = torch.eye(keys).expand(2, own.shape[1], -1, -1)
    plain_half, edited = attend(q, identity, identity, site).chunk(2)
    torch.testing.assert_close(plain_half, own, rtol=0, atol=1e-5)
    return edited


def attention_of(plan, step, tensors, site):
    """The edit's attention at `step`; the reference's inversion step is STEPS - 1 - step."""
    stored = {name.split(".", 2)[2]: t for name, t in tensors.items() if name.startswith(f"store.{STEPS - 1 - step}.")}
    layer = f"{site.address.stage}_{site.address.kind}.{site.address.unit}"
    mask = None
    if plan.source_mask is not None:
        maps = [(stored[name], site_of(name, stored[name].shape[2])) for name in BLEND_MAPS]

        def mask(size):
            return plan.source_mask.at(lambda weights: word_heat(maps, weights), size)

    now = plan.steps[step]
    return EditAttention(now, {site.address: SourceAttention(MapRecord(StoredTensor(stored[layer])), site)}, mask)


CASES = ["replace", "replace_1to2_perword", "refine", "reweight_refine", "replace_blend"]


@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize("case", CASES)
def test_edited_maps(model, units, case, step):
    described, tensors = units
    edit = described["cases"][case]
    source = read_prompt(model.text_encoder, described["source"])
    plan = compile_edit(settings_of(edit["kwargs"]), source, read_prompt(model.text_encoder, edit["edit"]), STEPS)
    checked = [key for key in tensors if key.startswith(f"{case}.out.{step}.")]
    assert checked
    for key in checked:
        layer = key.removeprefix(f"{case}.out.{step}.")
        own = tensors[f"edit.{step}.{layer}"]
        site = site_of(layer, own.shape[2])
        edited = edited_map(attention_of(plan, step, tensors, site), own, site)
        torch.testing.assert_close(edited, tensors[key], rtol=0, atol=1e-5, msg=lambda text, at=key: f"{at}: {text}")


def test_blend_masks(model, units):
    """22 masks in running order: two steps of eleven layers, 6x6, 4x4 and 2x2."""
    described, tensors = units
    edit = described["cases"]["replace_blend"]
    source, target = (read_prompt(model.text_encoder, text) for text in (described["source"], edit["edit"]))
    plan = compile_edit(settings_of(edit["kwargs"]), source, target, STEPS)
    masks = [tensors[f"replace_blend.attn_mask.{i}"] for i in range(22)]
    for index, wanted in enumerate(masks):
        site = site_of("down_self.0", 36)
        mask = attention_of(plan, index // 11, tensors, site).mask(tuple(wanted.shape[-2:]))
        assert mask.int().tolist() == wanted[:, 0].tolist()
