"""Model folders and files as a stranger might send them: each is made from a good one by a number.

`spoil(kind, folder, random)` spoils a good model of a kind; the same number spoils it the same way everywhere.
"""

import json
import os
import random
import shutil
import struct
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.make_checkpoint import single_file
from fatezero_ext import InflationSettings, TemporalLayers
from fatezero_ext.metrics.clip_scores import _image_processor
from fatezero_ext.models.unet.model import Pseudo3DUNet

from ..conftest import GOLDEN
from .hostile_pickles import spoil_pickle, tensors_of

WIDTH = 8
NUMBERS = (-1, 0, 1, 3, 7, 10**6, 10**9, 10**18, 10**30, -(10**9), 0.5, -0.5, 1e308, float("inf"), float("nan"))
VALUES = (*NUMBERS, None, True, False, "", "x", "x" * 5000, "\u202e\x1b[31m", [], {}, [[]], [0], [10**9] * 4, {"a": {}})
ADDED = {
    "attn_implementation": "kernels-community/flash-attn",
    "_attn_implementation": "someone/code",
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "auto_map": {"AutoModel": "someone/code--model.Model", "AutoTokenizer": ["x.Y", None]},
    "_class_name": ["UNetMotionModel", "os", 5],
    "_name_or_path": "someone/model",
    "trust_remote_code": True,
    "torch_dtype": "os",
    "dtype": {"a": 1},
    "architectures": ["T5"],
    "model_type": "t5",
    "tokenizer_class": "PreTrainedTokenizerFast",
    "tokenizer_file": "/dev/zero",
    "chat_template": "{% for x in range(10**9) %}{% endfor %}",
    "added_tokens_decoder": {"99999999": {"content": "<x>"}},
    "encoder_hid_dim_type": "ip_image_proj",
    "class_embed_type": "timestep",
    "pruned_heads": {"0": [0]},
    "_use_default_values": ["x"],
}
WHOLE_FILES = (
    b"",
    b"\xff\xfe\x00",
    b"[]",
    b"null",
    b'"text"',
    b"{",
    b"[" * 200_000,
    b'{"a":' * 100_000,
    b'{"x": ' + b"9" * 10_000 + b"}",
    b"{}" + b" " * (2 << 20),
    b"\xef\xbb\xbf{}",
)


# ---- good models, as small as they can be


def unet_net():
    """A 2-D UNet of two levels."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        block_out_channels=(WIDTH, WIDTH),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=WIDTH,
        sample_size=8,
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
    )


def make_pipeline(folder):
    """A diffusers folder."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet_net().save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(WIDTH, WIDTH),
        norm_num_groups=4,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
    ).save_pretrained(folder / "vae")
    text = CLIPTextConfig(**_tower(), vocab_size=2121, bos_token_id=0, eos_token_id=2)
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    shutil.copytree(GOLDEN / "model" / "tokenizer", folder / "tokenizer")
    shutil.copytree(GOLDEN / "model" / "scheduler", folder / "scheduler")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    colours = {"factors": [[0.1, 0.2, 0.3]] * 4, "bias": [0.0, 0.0, 0.0]}
    (folder / "latent_colours.json").write_text(json.dumps(colours))


def make_tuned(folder):
    """A UNet folder with low-rank layers over time."""
    torch.manual_seed(0)
    settings = InflationSettings(temporal=TemporalLayers(rank=2))
    net = Pseudo3DUNet(unet_net(), settings).net
    folder.mkdir(parents=True)
    torch.save(net.state_dict(), folder / "diffusion_pytorch_model.bin")
    config = {key: value for key, value in net.config.items() if not key.startswith("_")}
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": "UNetPseudo3DConditionModel"}))


def make_clip(folder):
    """A CLIP model with both towers."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=_tower() | {"vocab_size": 2121, "bos_token_id": 0, "eos_token_id": 2},
        vision_config=_tower() | {"image_size": 16, "patch_size": 8},
        projection_dim=4,
    )
    CLIPModel(config).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(GOLDEN / "model" / "tokenizer" / name, folder)
    processor = _image_processor()(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    (folder / "preprocessor_config.json").write_text(json.dumps(processor.to_dict()))


def make_checkpoint(folder):
    """A checkpoint of one file, and the same as a pickle."""
    from benchmarks.make_checkpoint import parts

    folder.mkdir(parents=True)
    weights = single_file(*parts("sd1"))
    save_file(weights, folder / "whole.safetensors")


def make_lora(folder):
    """A LoRA of `make_pipeline`'s UNet."""
    folder.mkdir(parents=True)
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    weights = {f"{layer}.lora_A.weight": torch.zeros(2, WIDTH), f"{layer}.lora_B.weight": torch.zeros(WIDTH, 2)}
    save_file(weights, folder / "adapter_model.safetensors", {"lora_adapter_metadata": '{"unet.lora_alpha": 2}'})
    (folder / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 4}')


GOOD = {
    "pipeline": make_pipeline,
    "tuned": make_tuned,
    "clip": make_clip,
    "checkpoint": make_checkpoint,
    "lora": make_lora,
}


def _tower():
    return {"hidden_size": WIDTH, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


# ---- ways to spoil them


def spoil(folder: Path, chance: random.Random, large: int) -> str:
    """Spoil one file of a good model; returns what was done, in words. large: bytes of what unpacks to much."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    weights = [path for path in files if path.suffix in (".safetensors", ".bin")]
    configs = [path for path in files if path.suffix == ".json"]
    way = chance.choice(["config", "config", "config", "place", "weights", "weights", "pickle", "pickle", "index"])
    if way == "config" and configs:
        path = chance.choice(configs)
        return f"{path.name}: {chance.choice([_change, _change, _remove, _add, _replace])(path, chance)}"
    if way == "place":
        path = chance.choice(files)
        return f"{path.name}: {_place(path, chance)}"
    path = chance.choice(weights)
    if way == "pickle":
        return f"{path.name}: {spoil_pickle(path, chance, large)}"
    if way == "index" and path.suffix == ".safetensors" and path.name != "whole.safetensors":
        return f"{path.name}: {_index(path, chance)}"
    return f"{path.name}: {_weights(path, chance)}"


def _spots(node, found):
    """All places of values in a JSON document."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        found.append((node, key))
        if isinstance(node[key], (dict, list)):
            _spots(node[key], found)
    return found


def _change(path, chance):
    document = json.loads(path.read_text())
    node, key = chance.choice(_spots(document, []))
    node[key] = chance.choice(VALUES)
    path.write_text(json.dumps(document))
    return f"{key} becomes {str(node[key])[:40]}"


def _remove(path, chance):
    document = json.loads(path.read_text())
    node, key = chance.choice(_spots(document, []))
    del node[key]
    path.write_text(json.dumps(document))
    return f"without {key}"


def _add(path, chance):
    document = json.loads(path.read_text())
    key = chance.choice(list(ADDED))
    value = ADDED[key]
    document[key] = chance.choice(value) if key == "_class_name" else value
    path.write_text(json.dumps(document))
    return f"with {key}"


def _replace(path, chance):
    content = chance.choice(WHOLE_FILES)
    path.write_bytes(content)
    return f"becomes {content[:20]!r}"


def _place(path, chance):
    path.unlink()
    way = chance.choice(["absent", "pipe", "endless", "folder", "loop", "dangling", "socket"])
    if way == "pipe":
        os.mkfifo(path)
    elif way == "endless":
        path.symlink_to("/dev/zero")
    elif way == "folder":
        path.mkdir()
    elif way == "loop":
        path.symlink_to(path.name)
    elif way == "dangling":
        path.symlink_to("nowhere")
    elif way == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as made:
            here = os.getcwd()
            os.chdir(path.parent)  # a socket's path is short
            try:
                made.bind(path.name)
            finally:
                os.chdir(here)
    return way


def _written(tensors, path):
    if path.suffix == ".safetensors":
        save_file({key: x.contiguous().clone() for key, x in tensors.items()}, path)
    else:
        torch.save(tensors, path)


def _weights(path, chance):
    way = chance.choice(["lose", "add", "shape", "type", "cut", "flip", "header", "strange", "deep", "empty"])
    if way in ("lose", "add", "shape", "type", "strange", "deep"):
        tensors = tensors_of(path)
        key = chance.choice(sorted(tensors))
        if way == "lose":
            del tensors[key]
        elif way == "add":
            tensors[chance.choice(["x", "x" * 10**5, "\x1b[31m", "lora_up.weight", f"{key}.scale_weight"])] = tensors[
                key
            ]
        elif way == "shape":
            shapes = [(), (0,), (0, 10**12), (1,) * 9, (3, 3), tuple(reversed(tensors[key].shape))]
            tensors[key] = torch.zeros(chance.choice(shapes))
        elif way == "type":
            kinds = [torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn, torch.float16, torch.complex64]
            kinds = kinds[:-1] if path.suffix == ".safetensors" else kinds
            tensors[key] = tensors[key].to(chance.choice(kinds))
        elif way == "strange":
            tensors[key] = torch.full_like(tensors[key], float("nan"))
        else:
            spelt = key.replace(".0.", f".{chance.choice([10**9, 10**30, '9' * 5000, -1, 'x'])}.", 1)
            tensors[spelt] = tensors.pop(key)
        _written(tensors, path)
        return f"{way} {key}"
    content = bytearray(path.read_bytes())
    if way == "cut":
        content = content[: chance.randrange(len(content))]
    elif way == "empty":
        content = bytearray()
    elif way == "flip":
        for _ in range(chance.choice([1, 8, 200])):
            content[chance.randrange(min(len(content), 4000))] ^= 1 << chance.randrange(8)
    else:
        content[:8] = struct.pack("<Q", chance.choice([0, 1, 2**31, 2**63, 2**64 - 1, len(content), len(content) - 8]))
    path.write_bytes(content)
    return way


def _index(path, chance):
    homes = dict.fromkeys(load_file(path), "part.safetensors")
    key = chance.choice(sorted(homes))
    path.rename(path.with_name("part.safetensors"))
    way = chance.choice(
        ["good", "escape", "absolute", "absent", "list", "number", "tensor", "itself", "pipe", "suffix"]
    )
    bad = {"escape": "../../x.safetensors", "absolute": "/etc/passwd", "absent": "y.safetensors", "number": 5}
    bad |= {"itself": f"{path.name}.index.json", "pipe": "pipe.safetensors", "suffix": "part.bin"}
    if way in bad:
        homes[key] = bad[way]
    if way == "pipe":
        os.mkfifo(path.with_name("pipe.safetensors"))
    if way == "tensor":
        homes["more"] = "part.safetensors"
    document = {"weight_map": list(homes) if way == "list" else homes}
    path.with_name(f"{path.name}.index.json").write_text(json.dumps(document))
    return way
