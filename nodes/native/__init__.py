"""ComfyUI's own MODEL as a noise model."""
