"""Words that a source prompt does not have: they stand behind it, and only a plus lets them in."""

import pytest

from fatezero_ext.errors import PromptError
from fatezero_ext.prompts.other_words import AskedPrompt, is_other, require_text_encoder, with_other_words
from fatezero_ext.prompts.prompt import read_prompt

SOURCE = "a silver jeep on the road"


@pytest.fixture
def source(model):
    return read_prompt(model.text_encoder, SOURCE, "source prompt")


@pytest.mark.parametrize(
    ("phrases", "whole"),
    [
        (("+shadow",), f"{SOURCE} a shadow"),
        (("jeep", "+ Red  boat", "+the moon"), f"{SOURCE} a Red boat the moon"),
        (("+shadow", "+shadow"), f"{SOURCE} a shadow"),
    ],
)
def test_marked_phrases_stand_behind_the_source_prompt(model, source, phrases, whole):
    asked = with_other_words(model.text_encoder, source, phrases)
    read = read_prompt(model.text_encoder, whole)
    assert isinstance(asked, AskedPrompt) and asked.whole == whole and asked.ids == read.ids
    for phrase in phrases:
        assert asked.find(phrase) == read.find(phrase.lstrip("+ "))


def test_the_tokens_of_a_marked_word_are_its_own_and_not_those_of_the_same_word_before(model, source):
    asked = with_other_words(model.text_encoder, source, ("+jeep", "jeep"))
    both = read_prompt(model.text_encoder, f"{SOURCE} a jeep").find("jeep")
    assert asked.find("jeep") + asked.find("+jeep") == both and asked.find("jeep") == source.find("jeep")


def test_a_word_without_a_plus_is_looked_for_in_the_source_prompt_alone(model, source):
    asked = with_other_words(model.text_encoder, source, ("+boat",))
    with pytest.raises(PromptError, match="blend_words: 'boat' is not in the prompt 'a silver jeep on the road'"):
        asked.find("boat", "blend_words")


def test_without_a_marked_phrase_the_source_prompt_itself_is_read(model, source):
    assert with_other_words(model.text_encoder, source, ("jeep", "road")) is source


def test_an_empty_source_prompt_takes_other_words_too(model):
    asked = with_other_words(model.text_encoder, read_prompt(model.text_encoder, ""), ("+jeep",))
    assert asked.find("+jeep") == read_prompt(model.text_encoder, "a jeep").find("jeep")


@pytest.mark.parametrize("setting", ["words", "blend_words", "subtract_words"])
def test_a_word_that_is_not_in_the_prompt_is_refused_with_both_ways_out(source, setting):
    with pytest.raises(PromptError, match=r"the, road. Use these, or write \+jeeep to look for"):
        source.find("jeeep", setting)


def test_settings_that_take_words_of_a_prompt_alone_offer_no_plus(source):
    with pytest.raises(PromptError, match="the, road. Use these.$"):
        source.find("jeeep", "equalizer")


@pytest.mark.parametrize("phrase", ["+5", "+"])
def test_a_plus_that_stands_in_the_prompt_is_the_prompts_own(model, phrase):
    source = read_prompt(model.text_encoder, f"a {phrase} jeep", "source prompt")
    assert with_other_words(model.text_encoder, source, (phrase,)) is source


@pytest.mark.parametrize("phrase", ["+", " + "])
def test_a_plus_without_words_is_refused(model, source, phrase):
    assert is_other(phrase)
    with pytest.raises(PromptError, match=r"a plus without words.*Write \+shadow"):
        with_other_words(model.text_encoder, source, (phrase,))


def test_more_words_than_fit_are_refused(model, source):
    with pytest.raises(PromptError, match=r"source prompt with \+.* has more than 77 tokens|77 fit"):
        with_other_words(model.text_encoder, source, ("+" + "car " * 80,))


def test_marked_words_need_a_text_encoder(model):
    assert require_text_encoder(("+boat",), model.text_encoder) is model.text_encoder
    with pytest.raises(PromptError, match=r"'\+boat' is a word outside the source prompt.*Connect clip"):
        require_text_encoder(("jeep", "+boat"), None)
