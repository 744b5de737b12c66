"""LoRA files: small changes of a model's weights."""
