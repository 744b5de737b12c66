"""Strength: an edit's text on its way from the source's."""

import pytest
import torch

from fatezero_ext import EditSettings, Storage, edit
from fatezero_ext.editing.plan import compile_edit
from fatezero_ext.editing.strength import guidance_at_strength, text_at_strength, text_share
from fatezero_ext.prompts.prompt import read_prompt

from ..conftest import relative
from ..small_runs import EDIT, REFINED, ROUNDING, SOURCE, inverted, named


@pytest.fixture(scope="module")
def source(model):
    return inverted(model, Storage("features", "ram"))


@pytest.fixture
def texts(model):
    """Embeddings of negative and edit prompt, and of the source; and the map of their tokens."""

    def made(prompt, mode):
        encode = model.text_encoder.encode
        prompts = (read_prompt(model.text_encoder, text) for text in (SOURCE, prompt))
        token_map = compile_edit(named(mode), *prompts, steps=2).token_map
        return torch.cat([encode("bad"), encode(prompt)]), encode(SOURCE), token_map

    return made


def test_the_whole_strength_is_the_edits_own_text(texts):
    text, of_source, token_map = texts(EDIT, "replace")
    assert text_at_strength(text, of_source, token_map, 1.0) is text


def test_without_strength_words_have_the_sources_text_and_the_negative_prompt_its_own(texts):
    text, of_source, token_map = texts(EDIT, "replace")
    found = text_at_strength(text, of_source, token_map, 0.0)
    torch.testing.assert_close(found[1], of_source[0])
    assert found[0].equal(text[0])


def test_words_that_moved_bring_their_text_along_and_new_ones_begin_as_padding(texts):
    text, of_source, token_map = texts(REFINED, "refine")
    found = text_at_strength(text, of_source, token_map, 0.0)[1]
    moved = len(REFINED.split()) - len(SOURCE.split())  # "a watercolor painting of" is put in front
    words = [(place, place + moved) for place in range(2, 1 + len(SOURCE.split()))]
    for before, after in words:
        torch.testing.assert_close(found[after], of_source[0, before])
    new = [place for place in range(77) if not token_map[:, place].any()]
    assert new
    for place in new:
        assert found[place].equal(of_source[0, -1])


@pytest.mark.parametrize(("prompt", "mode"), [(EDIT, "replace"), (REFINED, "refine")])
def test_each_step_of_strength_leads_the_text_further_from_the_source(texts, prompt, mode):
    text, of_source, token_map = texts(prompt, mode)
    begun = text_at_strength(text, of_source, token_map, 0.0)
    away = [(text_at_strength(text, of_source, token_map, s) - begun).norm().item() for s in (0, 0.25, 0.5, 0.75, 1)]
    assert away == sorted(away) and len(set(away)) == 5


def test_an_edit_without_strength_is_the_source_prompt_without_guidance(model, source):
    nothing = named(guidance=3.0, strength=0.0)
    of_source = edit(source, model.text_encoder, SOURCE, named(guidance=1.0)).latents
    assert relative(edit(source, model.text_encoder, EDIT, nothing).latents, of_source) < ROUNDING
    assert relative(edit(source, model.text_encoder, EDIT, named(guidance=3.0)).latents, of_source) > 10 * ROUNDING


def test_guidance_grows_with_strength_and_the_share_of_text_never_falls():
    strengths = [step / 20 for step in range(21)]
    assert [guidance_at_strength(7.5, s) for s in (0.0, 0.5, 1.0)] == [1.0, 4.25, 7.5]
    shares = [text_share(s) for s in strengths]
    assert shares == sorted(set(shares)) and (shares[0], shares[-1]) == (0.0, 1.0)


def test_strength_1_is_the_default(model, source):
    given, left_out = (
        edit(source, model.text_encoder, EDIT, settings).latents for settings in (EditSettings(strength=1.0), None)
    )
    assert given.equal(left_out)
