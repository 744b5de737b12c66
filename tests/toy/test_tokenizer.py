import numpy as np
import pytest

from fatezero_ext.toy.training.tokenizer import SPLIT_WORDS, build_tokenizer, token_words
from fatezero_ext.toy.world.captions import caption_words, sample_wording, vocabulary
from fatezero_ext.toy.world.world import scene_at


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("word", sorted(set(vocabulary()) - set(SPLIT_WORDS)))
def test_most_words_are_one_token(tokenizer, word):
    assert tokenizer.tokenize(word) == [word + "</w>"]


@pytest.mark.parametrize("word", sorted(SPLIT_WORDS))
def test_a_few_words_are_two_tokens(tokenizer, word):
    first, second = SPLIT_WORDS[word]
    assert tokenizer.tokenize(word) == [first, second + "</w>"]


def test_words_one_by_one_give_the_tokens_of_the_whole_caption(tokenizer):
    rng = np.random.default_rng(0)
    for index in range(50):
        words = [word for word, _ in caption_words(scene_at(2, index), sample_wording(rng))]
        whole = tokenizer(" ".join(words), padding="max_length").input_ids
        assert token_words(tokenizer, words)[0] == whole


def test_every_token_knows_its_word(tokenizer):
    _, owners = token_words(tokenizer, ["a", "watercolor", "circle"])
    assert owners[:7] == [-1, 0, 1, 1, 2, -1, -1]


def test_an_unknown_word_still_has_tokens(tokenizer):
    assert tokenizer.decode(tokenizer("zebra").input_ids, skip_special_tokens=True).strip() == "zebra"
