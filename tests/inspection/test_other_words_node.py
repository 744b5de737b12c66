"""Word Heat Maps with words that stand in no prompt."""

import json

import pytest

from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.inspection.heat_maps import word_heats
from fatezero_ext.pictures.attention_sheets import spread

from .test_heat_maps import folder, run

__all__ = ["folder"]  # a fixture


def test_a_word_with_a_plus_and_no_clip_is_refused_before_anything_runs(folder):
    with pytest.raises(
        load_pack("nodes.headless.problems").InvalidWorkflow, match=r"'words': '\+boat' is a word outside"
    ):
        run(folder, "7.words=+boat")


def test_the_node_shows_words_that_the_prompt_does_not_have(folder):
    graph = json.loads((folder / "see.json").read_text())
    graph["7"]["inputs"] |= {"words": "+boat, circle", "clip": ["3", 1], "follow_shapes": True}
    (folder / "see.json").write_text(json.dumps(graph))
    outcome = run(folder)
    controller, text_encoder = (
        outcome[name].outputs[i] for name, i in (("FateZero_DDIMInvert", 0), ("FateZero_LoadPseudo3DUNet", 1))
    )
    heats = word_heats(controller, ("+boat", "circle"), text_encoder=text_encoder, follow_shapes=True)
    assert outcome["FateZero_WordHeatMaps"].outputs[1].equal(spread(heats[0], (64, 80)))
