"""Small model files with random weights, named and laid out as those that the templates for SAM3 and VACE take."""

import io
import json
import re

import torch
from safetensors.torch import save_file

from benchmarks.make_checkpoint import parts, single_file, text_layout
from tests.comfyui.small_sizes import VOCABULARY, umt5

WORDS = "a silver red jeep sports car driving down curvy road in the countryside blurry low quality static"
TEXT_OF_SAM3 = "detector.backbone.language_backbone.encoder."
RENAMED = {".mlp.0.": ".mlp.lin1.", ".mlp.2.": ".mlp.lin2.", ".norm_final.": ".norm_final_attn."}


def random_weights(model, seed=0):
    """The model's state, as of a fresh one whose biases are 0 and whose norms do nothing."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name, weight in model.state_dict().items():
        if weight.ndim > 1 and not name.endswith("gamma"):
            fan = max(weight[0].numel(), 1)
            state[name] = torch.randn(weight.shape, generator=draw) / fan**0.5
        else:
            state[name] = torch.zeros(weight.shape) if name.endswith("bias") else torch.ones(weight.shape)
    return state


def half(state):
    return {name: weight.half().contiguous() for name, weight in state.items()}


def stable_diffusion(path):
    """Stable Diffusion 1.x, its UNet small."""
    save_file(half(single_file(*parts("sd1", "comfyui"))), path)


def vace(path):
    """Wan 2.1 VACE; its text width, which no weight tells, is in the file's metadata."""
    from comfy import ops
    from comfy.ldm.wan.model import VaceWanModel

    text = umt5()["d_model"]
    sizes = {"dim": 256, "ffn_dim": 256, "num_heads": 2, "num_layers": 2, "vace_layers": 1, "vace_in_dim": 96}
    model = VaceWanModel(**sizes, text_dim=text, operations=ops.disable_weight_init)
    save_file(half(random_weights(model)), path, {"config": json.dumps({"transformer": {"text_dim": text}})})


def wan_vae(path):
    """The VAE of Wan 2.1, narrow."""
    from comfy.ldm.wan.vae import WanVAE

    sizes = {"dim": 8, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "temperal_downsample": [False, True, True]}
    save_file(half(random_weights(WanVAE(**sizes))), path)


def umt5_scaled(path):
    """UMT5-XXL in scaled fp8, its tokenizer in the file."""
    import sentencepiece
    from comfy import ops
    from comfy.text_encoders.t5 import T5

    state = random_weights(T5(umt5(), torch.float32, "cpu", ops.disable_weight_init))
    saved = {name: weight.half() for name, weight in state.items()}
    for name in [name for name in state if re.search(r"(Attention\.[qkvo]|DenseReluDense\.w\w+)\.weight", name)]:
        saved[name] = state[name].to(torch.float8_e4m3fn)
        saved[name.removesuffix("weight") + "scale_weight"] = torch.ones(())
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS] * 50), model_writer=written, vocab_size=VOCABULARY, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    saved["spiece_model"] = torch.frombuffer(bytearray(written.getvalue()), dtype=torch.uint8)
    save_file(saved | {"scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn)}, path)


def sam31(path, seed=0):
    """SAM 3.1 multiplex: one weight for attention's inputs, the tracker below `tracker.model`, text as open_clip's."""
    from comfy import ops
    from comfy.ldm.sam3.detector import SAM3Model

    weights = random_weights(SAM3Model(image_model="SAM31", operations=ops.disable_weight_init), seed)
    saved = text_of_sam3()
    for name, weight in weights.items():
        if name.startswith("detector.") and ".q_proj." in name:
            joined = [weights[name.replace("q_proj", f"{each}_proj")] for each in "qkv"]
            saved[name.replace(".q_proj.", ".in_proj_")] = torch.cat(joined)
        elif not (name.startswith("detector.") and re.search(r"\.[kv]_proj\.", name)):
            for ours, theirs in RENAMED.items() if "sam_mask_decoder.transformer." in name else ():
                name = name.replace(ours, theirs)
            saved[re.sub("^tracker.", "tracker.model.", name)] = weight
    save_file(half(saved), path)


def text_of_sam3():
    from comfy.text_encoders.sam3_clip import SAM3_CLIP_CONFIG
    from transformers import CLIPTextConfig, CLIPTextModel

    model, unused = CLIPTextModel(CLIPTextConfig(**SAM3_CLIP_CONFIG)), SAM3_CLIP_CONFIG["num_hidden_layers"]
    named = {name.partition(".model.")[2]: weight for name, weight in text_layout(model, "sd2").items()}
    return {TEXT_OF_SAM3 + name: weight for name, weight in named.items() if f".resblocks.{unused}." not in name}
