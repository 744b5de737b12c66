"""Parts of a clip in which recorded attention is read."""

import pytest

from fatezero_ext import InflationSettings, SettingsError, Storage, load_model, word_heats

from ..conftest import GOLDEN
from ..small_runs import clip, inverted


def test_what_keeps_the_parts_of_an_inversion_apart_is_named_before_its_attention_is_read_whole():
    """A clip that was inverted in parts may be more than the device holds."""
    model = load_model(GOLDEN / "model", InflationSettings(norm="clip"))
    options = {"latents": clip(1, 4, 8, 8), "steps": 2}
    parts, whole = (inverted(model, Storage(), **options, frames_at_once=at_once) for at_once in (2, 0))
    model.unet.net.down_blocks[0].register_forward_hook(lambda *_given: None)
    with pytest.raises(SettingsError, match="hooks on its blocks"):
        word_heats(parts, ("jeep",))
    assert word_heats(whole, ("jeep",)).shape == (1, 4, 8, 8)
