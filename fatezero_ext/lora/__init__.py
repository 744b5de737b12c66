"""LoRA files: small changes of a model's weights, on top of inflation."""

from .apply import apply_lora

__all__ = ["apply_lora"]
