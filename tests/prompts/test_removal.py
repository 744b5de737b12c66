"""The edit prompt that removes an object has the background's word for each of the object's words."""

import pytest

from fatezero_ext import removal_prompt
from fatezero_ext.errors import PromptError
from fatezero_ext.prompts.prompt import check_word_counts
from fatezero_ext.prompts.words_alone import read_words


@pytest.mark.parametrize(
    ("source", "words", "background", "wanted"),
    [
        ("a red circle on the grass", "red circle", "grass", "a grass grass on the grass"),
        ("a red circle on the grass", ("red", "circle"), "grass", "a grass grass on the grass"),
        ("a red circle on the grass", "circle", "sand", "a red sand on the grass"),
        ("A Jeep, silver, on a road.", ("jeep", "silver"), "road", "A road, road, on a road."),
        ("a car and a car on the road", "car", " road ", "a road and a road on the road"),
        ("a car, then a car on the road", "car", "road", "a road, then a road on the road"),
        ("a Red car and a red car", "red car", "road", "a road road and a road road"),
        ('a "car" [car] by a CAR', "car", "road", 'a "road" [road] by a road'),
        ("a car , a car", ",", "road", "a car road a car"),
    ],
)
def test_each_word_of_the_object_becomes_the_background_s(source, words, background, wanted):
    prompt = removal_prompt(source, words, background)
    assert prompt == wanted
    check_word_counts(read_words(source, "source prompt"), read_words(prompt, "edit prompt"))


def test_words_that_are_not_in_the_source_prompt_are_refused():
    with pytest.raises(PromptError, match="object_words: 'boat' is not in the prompt"):
        removal_prompt("a red circle on the grass", "boat", "grass")


@pytest.mark.parametrize("background", ["", "green grass"])
def test_a_background_of_other_than_one_word_is_refused(background):
    with pytest.raises(PromptError, match="one word is needed"):
        removal_prompt("a red circle on the grass", "circle", background)


@pytest.mark.parametrize("words", ["", (), (" ",)])
def test_an_object_without_words_is_refused(words):
    with pytest.raises(PromptError, match="no words of an object are given"):
        removal_prompt("a red circle on the grass", words, "grass")


def test_the_article_follows_the_background():
    assert removal_prompt("An orange circle on the sand", "orange circle", "sand") == "A sand sand on the sand"
    assert removal_prompt("a red circle on an island", "red circle", "island") == "an island island on an island"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, "car", "road"), "None came in place of the source prompt; one text"),
        (("a car on the road", None, "road"), "object_words is None; words of the source prompt are needed"),
        (("a car on the road", 3, "road"), "object_words is 3; words of the source prompt are needed"),
        (("a car on the road", [3], "road"), "3 came in place of the object_words; one text"),
        (("a car on the road", ("car", None), "road"), "None came in place of the object_words; one text"),
        (("a car on the road", "car", None), "None came in place of the background word; one text"),
    ],
)
def test_what_is_no_text_is_named(given, message):
    with pytest.raises(PromptError, match=message):
        removal_prompt(*given)
