"""Single-file checkpoints with Stable Diffusion's own layer names."""
