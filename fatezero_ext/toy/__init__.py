"""A small text-to-image model of Stable Diffusion 1.x layout, and the drawn world it was trained on."""
