"""Words, mappers and windows against the authors' program."""

import pytest
import torch

from fatezero_ext.errors import PromptError
from fatezero_ext.prompts.alignment import refinement_mapper, replacement_mapper, window_table
from fatezero_ext.prompts.prompt import read_prompt

from ..small_runs import named

PAIRS = range(9)
SCHEDULES = range(6)


@pytest.fixture(scope="module")
def aligner(golden):
    return golden.json("units/aligner"), golden.tensors("units/aligner")


def prompts_of(model, pair):
    return read_prompt(model.text_encoder, pair["source"]), read_prompt(model.text_encoder, pair["edit"])


@pytest.mark.parametrize("index", PAIRS)
def test_token_ids_and_word_positions(model, aligner, index):
    pair = aligner[0]["pairs"][index]
    for prompt, side in zip(prompts_of(model, pair), ("source", "edit"), strict=True):
        assert list(prompt.ids) == pair[f"{side}_ids"]
        for word, positions in pair[f"word_inds_{side}"].items():
            assert list(prompt.find(word)) == positions


@pytest.mark.parametrize("index", PAIRS)
def test_refinement_mapper(model, aligner, index):
    mapper, kept = refinement_mapper(*prompts_of(model, aligner[0]["pairs"][index]), quirks="original")
    assert mapper.tolist() == aligner[1][f"{index}.refine_mapper"].tolist()
    assert kept.tolist() == aligner[1][f"{index}.refine_alphas"].tolist()


@pytest.mark.parametrize("index", PAIRS)
def test_replacement_mapper(model, aligner, index):
    prompts = prompts_of(model, aligner[0]["pairs"][index])
    if "replace_mapper_error" in aligner[0]["pairs"][index]:
        with pytest.raises(PromptError, match="equally many words"):
            replacement_mapper(*prompts, quirks="original")
    else:
        torch.testing.assert_close(
            replacement_mapper(*prompts, quirks="original"), aligner[1][f"{index}.replace_mapper"], rtol=0, atol=1e-7
        )


@pytest.mark.parametrize("index", SCHEDULES)
def test_window_table(model, aligner, index):
    case = aligner[0]["schedules"][index]
    windows = case["cross_replace_steps"]
    windows = dict(windows) if isinstance(windows, dict) else {"default_": windows}
    settings = named(cross_replace=windows.pop("default_", 1.0), cross_replace_words=windows)
    edit = read_prompt(model.text_encoder, case["prompts"][1])
    table = window_table(edit, settings.cross_replace, settings.cross_replace_words, case["num_steps"])
    assert table.tolist() == aligner[1][f"sched{index}"].tolist()
