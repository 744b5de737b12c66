"""Model folders of diffusers and transformers, read without trust."""
