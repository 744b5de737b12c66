"""A small UNet of Stable Diffusion 1.x layout, once as ComfyUI's MODEL and once as diffusers'."""

from __future__ import annotations

import json

from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from fatezero_ext.models.folder.detect import TOY_FOLDER

GROUPS = 32  # ComfyUI's UNet has no other; the built-in model's widths allow it


def toy_unet() -> UNet2DConditionModel:
    """The built-in model's weights under norms of 32 groups: no pictures, but the same numbers on every way."""
    config = json.loads((TOY_FOLDER / "unet" / "config.json").read_text())
    net = UNet2DConditionModel.from_config({**config, "norm_num_groups": GROUPS})
    net.load_state_dict(load_file(TOY_FOLDER / "unet" / "diffusion_pytorch_model.safetensors"))
    return net


def native_model(prediction: str = "EPS"):
    """The same as a ComfyUI ModelPatcher of kind SD15."""
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models
    import comfy.utils

    net = toy_unet()
    widths, layers = net.config.block_out_channels, net.config.layers_per_block
    attends = [kind.startswith("CrossAttn") for kind in net.config.down_block_types]
    depth = [int(on) for on in attends for _ in range(layers)]
    config = comfy.supported_models.SD15(
        {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": widths[0],
            "num_res_blocks": [layers] * len(widths),
            "channel_mult": [width // widths[0] for width in widths],
            "num_heads": net.config.attention_head_dim,
            "num_head_channels": -1,
            "use_spatial_transformer": True,
            "transformer_depth": depth,
            "transformer_depth_output": [int(on) for on in attends for _ in range(layers + 1)],
            "transformer_depth_middle": 1,
            "context_dim": net.config.cross_attention_dim,
            "use_linear_in_transformer": False,
            "adm_in_channels": None,
            "use_temporal_attention": False,
            "legacy": False,
        }
    )
    config.unet_config |= {"num_heads": net.config.attention_head_dim, "num_head_channels": -1}
    config.manual_cast_dtype = None
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    weights = {names[name]: weight for name, weight in net.state_dict().items()}
    device = comfy.model_management.get_torch_device()
    model = comfy.model_base.BaseModel(config, model_type=comfy.model_base.ModelType[prediction], device=device)
    model.diffusion_model.load_state_dict(weights)
    model.requires_grad_(False)
    return comfy.model_patcher.ModelPatcher(model, device, comfy.model_management.unet_offload_device())
