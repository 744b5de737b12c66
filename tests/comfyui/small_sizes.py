"""Makes ComfyUI build UMT5 and SAM3, whose sizes no file tells, with few layers and a short vocabulary.

Also a custom node for the tests' own ComfyUI: it does so when it is loaded.
"""

from comfy import sd, sd1_clip
from comfy.text_encoders import wan

VOCABULARY = 64


class SmallUMT5(sd1_clip.SDClipModel):
    """UMT5-XXL as `wan.UMT5XXlModel` makes it, of another size."""

    def __init__(self, **options):
        usual = {"special_tokens": {"end": 1, "pad": 0}, "enable_attention_masks": True, "zero_out_masked": True}
        super().__init__(**usual, textmodel_json_config=umt5(), model_class=wan.comfy.text_encoders.t5.T5, **options)


def umt5():
    """A small configuration that ComfyUI takes for T5-XXL: newer versions by one width, older ones by the other."""
    import torch

    name, wide = "encoder.block.23.layer.1.DenseReluDense.wi_1.weight", torch.empty(10240, 64, device="meta")
    newer = sd.detect_te_model({name: wide}) == sd.TEModel.T5_XXL
    width, inner = (64, 10240) if newer else (4096, 64)
    sizes = {"d_model": width, "d_ff": inner, "d_kv": 8, "num_heads": 1, "num_layers": 24, "vocab_size": VOCABULARY}
    return sizes | {"model_type": "umt5", "dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True}


def shrink_sam3():
    """Make both encoders of SAM3 two narrow layers, and all behind them narrow; older versions have no SAM3."""
    try:
        from comfy.ldm.sam3.detector import SAM3Model
        from comfy.text_encoders.sam3_clip import SAM3_CLIP_CONFIG
    except ImportError:
        return
    SAM3_CLIP_CONFIG.update(hidden_size=128, intermediate_size=128, num_attention_heads=2, num_hidden_layers=2)
    sizes = {"embed_dim": 128, "depth": 2, "global_att_blocks": (1,), "d_model": 64, "mem_dim": 64}
    whole = SAM3Model.__init__

    def small(self, *args, **options):
        whole(self, *args, **options | sizes)

    SAM3Model.__init__ = small


wan.UMT5XXlModel = SmallUMT5
shrink_sam3()
NODE_CLASS_MAPPINGS = {}
