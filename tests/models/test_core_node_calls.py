"""Our CLIP as core nodes use it: tokens, clip skip, and what is refused by name."""

import pytest
import torch

from benchmarks.make_checkpoint import parts
from fatezero_ext.errors import ModelError, PromptError
from fatezero_ext.models.single_file.checkpoint import _tokenizer
from fatezero_ext.models.text_encoder import ClipTextEncoder
from fatezero_ext.prompts.alignment import refinement_mapper
from fatezero_ext.prompts.prompt import read_prompt
from fatezero_ext.prompts.token_report import described_words

from ..conftest import relative


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def text(request):
    """A small text encoder with CLIP's whole vocabulary."""
    return ClipTextEncoder(_tokenizer(request.param), parts(request.param)[2])


def test_a_conditioning_has_what_core_nodes_read(text):
    (cond, extra), *others = text.encode_from_tokens_scheduled(text.tokenize("a jeep"), add_dict={"guidance": 3.5})
    assert (others, cond.shape, extra["pooled_output"].shape, extra["guidance"]) == ([], (1, 77, 64), (1, 64), 3.5)
    assert text.encode_from_tokens(text.tokenize("a jeep")).equal(cond)
    pair = text.encode_from_tokens(text.tokenize("a jeep"), return_pooled=True)
    assert pair[0].equal(cond) and pair[1].equal(extra["pooled_output"])


def test_clip_skip_reads_an_earlier_layer_through_the_last_norm(text):
    skipped = text.clone()
    skipped.clip_layer(-2)
    ids = torch.tensor([[token for token, _ in text.tokenize("a jeep")["l"][0]]])
    net = getattr(text.net, "text_model", text.net)
    layers = net.encoder.layers
    kept, net.encoder.layers = layers, layers[:-1]
    try:
        wanted = text.net(ids).last_hidden_state
    finally:
        net.encoder.layers = kept
    assert skipped.encode("a jeep").equal(wanted)
    assert text.layer is None and relative(text.encode("a jeep"), wanted) > 0.01


def test_the_last_layer_is_the_usual_one(text):
    skipped = text.clone()
    skipped.clip_layer(-1)
    torch.testing.assert_close(skipped.encode("a jeep"), text.encode("a jeep"), rtol=0, atol=1e-6)


def test_layers_of_stable_diffusion_2_are_counted_as_comfyui_counts_them(monkeypatch):
    text = ClipTextEncoder(_tokenizer("sd2"), parts("sd2")[2])
    monkeypatch.setattr("fatezero_ext.models.text_encoder.OPEN_CLIP_LAYERS", text.net.config.num_hidden_layers)
    skipped = text.clone()
    skipped.clip_layer(-2)
    torch.testing.assert_close(skipped.encode("a jeep"), text.encode("a jeep"), rtol=0, atol=1e-6)
    with pytest.raises(PromptError, match="clip skip is -1"):
        skipped.clip_layer(-1)


@pytest.mark.parametrize("layer", [0, 1, -4])
def test_layers_that_are_not_there_are_refused(text, layer):
    with pytest.raises(PromptError, match=f"clip skip is {layer}; this text encoder has the layers -1 to -2"):
        text.clone().clip_layer(layer)


@pytest.mark.parametrize("prompt", ["a (red:1.3) jeep", "a (red) jeep", "a ((red)) jeep", "a red) jeep"])
def test_weights_in_brackets_are_refused_by_name(text, prompt):
    with pytest.raises(PromptError, match="brackets, which give words a weight"):
        text.tokenize(prompt)


def test_brackets_that_are_meant_are_written_with_a_backslash(text):
    ids = [token for token, _ in text.tokenize(r"a \(red\) jeep")["l"][0]]
    assert ids[:7] == [49406, *text.tokenizer("a (red) jeep")["input_ids"][1:7]]
    assert [word.tokens for word in read_prompt(text, r"a \(red\) jeep").words] == [(1,), (2, 3, 4), (5,)]


def test_padding_of_stable_diffusion_2_is_a_plain_mark_in_a_prompt(text):
    ids = [token for token, _ in text.tokenize("snow falls!")["l"][0]]
    assert ids[:5] == [49406, 2583, 4778, 256, 49407] and set(ids[5:]) == {text.tokenizer.pad_token_id}


def test_textual_inversions_are_refused_by_name(text):
    with pytest.raises(PromptError, match="'embedding:cat-toy' names a textual inversion"):
        text.tokenize("a photo of embedding:cat-toy on grass")


def test_word_numbers_are_given_where_asked_for(text):
    pairs = text.tokenize("a jeep, driving", return_word_ids=True)["l"][0]
    assert [word for _, _, word in pairs[:7]] == [0, 1, 2, 2, 3, 0, 0]


def test_a_lora_of_core_nodes_is_told_where_to_go(text):
    for patch in (lambda: text.add_patches({}, 1.0), lambda: text.cond_stage_model):
        with pytest.raises(ModelError, match="Use Load LoRA"):
            patch()


@pytest.mark.parametrize(("name", "way"), [("patcher", "Load Checkpoint"), ("get_sd", "Load Checkpoint")])
def test_what_only_comfyuis_clip_has_is_refused_with_another_way(text, name, way):
    with pytest.raises(ModelError, match=f"{name}.*{way}"):
        getattr(text, name)
    assert not hasattr(text, name) and not hasattr(text, "cond_stage_model")


def test_a_conditioning_is_kept_as_comfyui_keeps_it(text):
    """Core nodes join it with that of ComfyUI's CLIP: float32, on the CPU."""
    half = text.with_weights({name: x.half() for name, x in text.net.named_parameters()})
    ((cond, extra),) = half.encode_from_tokens_scheduled(half.tokenize("a jeep"))
    assert cond.dtype == extra["pooled_output"].dtype == torch.float32
    torch.testing.assert_close(cond, text.encode("a jeep"), atol=2e-2, rtol=2e-2)


class Inverted:
    """A ComfyUI CLIP with a textual inversion of two vectors, as `embedding:cat` stands for."""

    def __init__(self, text):
        self.tokenizer = text.tokenizer
        self.text, self.vectors = text, [torch.full((64,), 0.1), torch.full((64,), 0.2)]

    def tokenize(self, prompt):
        pairs = []
        for word in prompt.split():
            if word == "embedding:cat":
                pairs += [(vector, 1.0) for vector in self.vectors]
            elif word != "embedding:absent":
                pairs += [(token, 1.0) for token in self.text.tokenizer(word)["input_ids"][1:-1]]
        start, end = 49406, 49407
        return {"l": [[(start, 1.0), *pairs, *((end, 1.0) for _ in range(76 - len(pairs)))]]}


def test_vectors_of_a_textual_inversion_are_tokens_of_their_word(text):
    clip = Inverted(text)
    assert "2-3: embedding:cat = vector + vector" in described_words(clip, "a embedding:cat on grass")
    source = read_prompt(clip, "a embedding:cat on grass")
    assert [word.tokens for word in source.words] == [(1,), (2, 3), (4,), (5,)]
    mapper, kept = refinement_mapper(source, read_prompt(clip, "a small embedding:cat on grass"))
    assert mapper[:8].tolist() == [0, 1, -1, 2, 3, 4, 5, 6]
    assert kept[:8].tolist() == [1, 1, 0, 1, 1, 1, 1, 1]


def test_an_embedding_that_is_not_there_is_said(text):
    with pytest.raises(PromptError, match="'embedding:absent' of the prompt has no tokens.*models/embeddings"):
        read_prompt(Inverted(text), "a embedding:absent on grass")
