"""Writes checkpoints of one file in the layout they have on model sites, with random weights: for tests and benchmarks.

`python -m benchmarks.make_checkpoint FILE --size full|tiny|comfyui --family sd1|sd2`
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from fatezero_ext.models.diffusers_to_ldm import ldm_names
from fatezero_ext.models.single_file.configs import END, START, V_PREDICTION_KEY
from fatezero_ext.models.single_file.standard_names import VAE_ATTENTION

UNETS = {
    "full": {"block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2},
    "comfyui": {"block_out_channels": (320, 320), "layers_per_block": 1},
    "tiny": {"block_out_channels": (64, 64), "layers_per_block": 1},
}
VAES = {"full": ((128, 256, 512, 512), 2), "comfyui": ((128, 256, 512, 512), 2), "tiny": ((32, 32), 1)}
"""Widths and layers. For ComfyUI a UNet of 320 channels is Stable Diffusion 1.x, and a VAE has one size."""
TEXTS = {"sd1": (768, 12, "quick_gelu"), "sd2": (1024, 23, "gelu")}
"""Width, layers and activation of the text encoders."""

RENAMED_OPEN_CLIP = {
    "encoder.layers.": "transformer.resblocks.",
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
    "self_attn.out_proj.": "attn.out_proj.",
    "final_layer_norm.": "ln_final.",
    "embeddings.token_embedding.": "token_embedding.",
    "embeddings.position_embedding.weight": "positional_embedding",
}


def parts(family: str = "sd1", size: str = "tiny", seed: int = 0) -> tuple[nn.Module, nn.Module, nn.Module]:
    """UNet, VAE and text encoder with random weights."""
    torch.manual_seed(seed)
    width, layers, act = TEXTS[family]
    if size != "full":
        width, layers = {"tiny": (64, 2)}.get(size, (width, layers if size == "comfyui" else 2))
    widths = UNETS[size]["block_out_channels"]
    attends = [True] * (len(widths) - 1) + [size != "full"]
    unet = UNet2DConditionModel(
        **UNETS[size],
        down_block_types=["CrossAttnDownBlock2D" if on else "DownBlock2D" for on in attends],
        up_block_types=["CrossAttnUpBlock2D" if on else "UpBlock2D" for on in reversed(attends)],
        cross_attention_dim=width,
        attention_head_dim=8 if family == "sd1" else [each // 64 for each in widths],
        use_linear_projection=family == "sd2",
        upcast_attention=family == "sd2",
    )
    vae_widths, vae_layers = VAES[size]
    vae = AutoencoderKL(
        block_out_channels=vae_widths,
        layers_per_block=vae_layers,
        down_block_types=["DownEncoderBlock2D"] * len(vae_widths),
        up_block_types=["UpDecoderBlock2D"] * len(vae_widths),
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=END + 1,
            hidden_size=width,
            projection_dim=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=max(1, width // 64),
            hidden_act=act,
            bos_token_id=START,
            eos_token_id=END,
            pad_token_id=END if family == "sd1" else 0,
        )
    )
    return unet, vae, text


def _renamed(name: str, renames: Mapping[str, str]) -> str:
    for ours, theirs in renames.items():
        name = name.replace(ours, theirs)
    return name


def unet_layout(net: UNet2DConditionModel) -> dict[str, Tensor]:
    """diffusers' weights under the names that single files have, without `model.diffusion_model.`."""
    weights = net.state_dict()
    return {theirs: weights[ours] for ours, theirs in ldm_names(net, weights).items()}


def vae_layout(net: AutoencoderKL) -> dict[str, Tensor]:
    """The VAE's weights under the names that single files have, without `first_stage_model.`."""
    deepest = len(net.config.block_out_channels) - 1
    named = {}
    for name, weight in net.state_dict().items():
        name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{deepest - int(m[1])}.block.{m[2]}", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{deepest - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        if "mid_block.attentions.0." in name:
            name = _renamed(name.replace("mid_block.attentions.0.", "mid.attn_1."), VAE_ATTENTION)
            weight = weight[:, :, None, None] if weight.ndim == 2 else weight
        named[name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")] = weight
    return named


def text_layout(net: CLIPTextModel, family: str) -> dict[str, Tensor]:
    """The text encoder's weights under whole names; of Stable Diffusion 2.x with the layer that is not used."""
    weights = {name.removeprefix("text_model."): weight for name, weight in net.state_dict().items()}
    if family == "sd1":
        return {f"cond_stage_model.transformer.text_model.{name}": weight for name, weight in weights.items()}
    last = net.config.num_hidden_layers - 1
    weights |= {
        name.replace(f"layers.{last}.", f"layers.{last + 1}."): torch.zeros_like(weight)
        for name, weight in list(weights.items())
        if f"layers.{last}." in name
    }
    named = {}
    for name, weight in weights.items():
        if ".self_attn.q_proj." in name:
            joined = torch.cat([weights[name.replace("q_proj", f"{each}_proj")] for each in "qkv"])
            name = name.replace("self_attn.q_proj.", "attn.in_proj_")
            named[f"cond_stage_model.model.{_renamed(name, RENAMED_OPEN_CLIP)}"] = joined
        elif not re.search(r"self_attn\.[kv]_proj", name):
            named[f"cond_stage_model.model.{_renamed(name, RENAMED_OPEN_CLIP)}"] = weight
    return named


def single_file(
    unet: nn.Module, vae: nn.Module, text: nn.Module, family: str = "sd1", dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """All weights as a single file names them."""
    named = {f"model.diffusion_model.{name}": weight for name, weight in unet_layout(unet).items()}
    named |= {f"first_stage_model.{name}": weight for name, weight in vae_layout(vae).items()}
    named |= text_layout(text, family)
    return {name: weight.to(dtype).contiguous() for name, weight in named.items()}


def main() -> None:
    """Write one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--size", default="full", choices=sorted(UNETS))
    parser.add_argument("--family", default="sd1", choices=sorted(TEXTS))
    parser.add_argument("--dtype", default="float16", choices=("float16", "bfloat16", "float32"))
    parser.add_argument("--velocity", action="store_true", help="mark a sd2 file as one that predicts velocity")
    options = parser.parse_args()
    torch.set_default_dtype(dtype := getattr(torch, options.dtype))
    weights = single_file(*parts(options.family, options.size), options.family, dtype)
    if options.velocity:
        weights[V_PREDICTION_KEY] = torch.linspace(-1, 1, len(weights[V_PREDICTION_KEY]), dtype=dtype)
    options.file.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, options.file)
    print(f"{options.file}: {options.file.stat().st_size / 1e9:.2f} GB, {len(weights)} tensors")


if __name__ == "__main__":
    main()
