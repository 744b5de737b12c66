"""LoRA files in every layout, of matrices drawn by chance, and what they make of a model by hand."""

import re

import torch

from fatezero_ext.models.diffusers_to_ldm import ldm_names

RANK = 2
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn{}.to_{}"
LAYERS = (
    *(ATTENTION.format(kind, name) for kind in (1, 2) for name in ("q", "k", "v", "out.0")),
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
    "up_blocks.1.attentions.2.transformer_blocks.0.attn1.to_q",
)
LAYERS_OF_OTHER_KINDS = (
    "down_blocks.0.attentions.0.proj_in",
    "up_blocks.3.attentions.1.proj_out",
    "down_blocks.1.attentions.1.transformer_blocks.0.ff.net.0.proj",
    "down_blocks.1.attentions.1.transformer_blocks.0.ff.net.2",
    "conv_in",
    "conv_out",
    "time_embedding.linear_1",
    "time_embedding.linear_2",
    "down_blocks.0.downsamplers.0.conv",
    "down_blocks.1.resnets.0.conv_shortcut",
    "down_blocks.3.resnets.1.conv1",
    "mid_block.resnets.1.conv2",
    "up_blocks.0.upsamplers.0.conv",
    "up_blocks.1.resnets.0.time_emb_proj",
    "up_blocks.2.upsamplers.0.conv",
)
FIRST_NAMES = {
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": "input_blocks_1_1_transformer_blocks_0_attn1_to_q",
    "down_blocks.1.attentions.1.transformer_blocks.0.ff.net.2": "input_blocks_5_1_transformer_blocks_0_ff_net_2",
    "down_blocks.0.downsamplers.0.conv": "input_blocks_3_0_op",
    "down_blocks.1.resnets.0.conv_shortcut": "input_blocks_4_0_skip_connection",
    "down_blocks.3.resnets.1.conv1": "input_blocks_11_0_in_layers_2",
    "mid_block.attentions.0.proj_in": "middle_block_1_proj_in",
    "mid_block.resnets.1.conv2": "middle_block_2_out_layers_3",
    "up_blocks.0.upsamplers.0.conv": "output_blocks_2_1_conv",
    "up_blocks.1.attentions.2.transformer_blocks.0.attn1.to_q": "output_blocks_5_1_transformer_blocks_0_attn1_to_q",
    "up_blocks.1.resnets.0.time_emb_proj": "output_blocks_3_0_emb_layers_1",
    "up_blocks.2.upsamplers.0.conv": "output_blocks_8_2_conv",
    "up_blocks.3.attentions.1.proj_out": "output_blocks_10_1_proj_out",
    "conv_in": "input_blocks_0_0",
    "conv_out": "out_2",
    "time_embedding.linear_1": "time_embed_0",
    "time_embedding.linear_2": "time_embed_2",
}
"""As the published Stable Diffusion 1.x checkpoints name these layers."""
TEXT_LAYERS = tuple(
    f"encoder.layers.{i}.{name}"
    for i in (0, 1)
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
)


def weights_of(net):
    """A network's weights by layer, without the `text_model.` that some versions of transformers put in front."""
    return {
        key.removeprefix("text_model.").removesuffix(".weight"): value
        for key, value in net.state_dict().items()
        if key.endswith(".weight")
    }


def drawn(net, layers, seed=0, rank=RANK):
    """Matrices (up, down) for each layer, small enough to keep the model in range."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for layer in layers:
        out, into, *cells = weights_of(net)[layer].shape
        up = torch.randn(out, rank, *[1 for _ in cells], generator=generator) * 0.1
        pairs[layer] = up, torch.randn(rank, into, *cells, generator=generator) * 0.1
    return pairs


def delta(up, down):
    """`up @ down` of a linear layer or a convolution, sum by sum."""
    return sum(torch.einsum("o...,i...->oi...", up[:, r], down[r]) for r in range(len(down)))


def kohya(pairs, *, alpha=None, prefix="lora_unet_", names=None):
    """As kohya's trainer saves: flat names, and an alpha for each layer."""
    weights = {}
    for layer, (up, down) in pairs.items():
        name = prefix + (names or {}).get(layer, layer.replace(".", "_"))
        weights |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
        if alpha is not None:
            weights[f"{name}.alpha"] = torch.tensor(float(alpha))
    return weights


def kohya_text(pairs, **options):
    """The same for the text encoder."""
    return kohya(pairs, prefix="lora_te_text_model_", **options)


def diffusers_processors(pairs, *, prefix="unet."):
    """As diffusers saved attention layers in 2023."""
    weights = {}
    for layer, (up, down) in pairs.items():
        block, _, name = layer.partition(".to_")
        name = f"{prefix}{block}.processor.to_{name.removesuffix('.0')}_lora"
        weights |= {f"{name}.up.weight": up, f"{name}.down.weight": down}
    return weights


def diffusers_layers(pairs, *, prefix="unet."):
    """As diffusers saves any layer since."""
    return {
        f"{prefix}{layer}.lora.{part}.weight": matrix
        for layer, pair in pairs.items()
        for part, matrix in zip(("up", "down"), pair, strict=True)
    }


def peft(pairs, *, prefix="base_model.model.", adapter=""):
    """As PEFT saves a model; diffusers' newest files have "unet." for the prefix."""
    return {
        f"{prefix}{layer}.lora_{part}{adapter}.weight": matrix
        for layer, pair in pairs.items()
        for part, matrix in zip("BA", pair, strict=True)
    }


def old_text(pairs):
    """As diffusers saved text encoders in 2023."""
    weights = {}
    for layer, (up, down) in pairs.items():
        name = re.sub(r"self_attn\.(q|k|v|out)_proj", r"self_attn.to_\1_lora", layer)
        name = f"text_encoder.text_model.{name}" + (".lora_linear_layer" if ".mlp." in layer else "")
        weights |= {f"{name}.up.weight": up, f"{name}.down.weight": down}
    return weights


def comfyui(pairs, net):
    """As ComfyUI's Extract and Save Lora writes a UNet's, by the first checkpoints' names with points."""
    weights = {}
    for layer, (up, down) in pairs.items():
        name = f"diffusion_model.{ldm_names(net, [layer])[layer]}"
        weights |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
    return weights


def comfyui_text(pairs, encoder="clip_l"):
    """The same of a text encoder."""
    weights = {}
    for layer, (up, down) in pairs.items():
        name = f"text_encoders.{encoder}.transformer.text_model.{layer}"
        weights |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
    return weights
