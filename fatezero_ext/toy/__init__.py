"""A small text-to-image model of Stable Diffusion 1.x layout, and the drawn world it was trained on."""

from pathlib import Path

MODEL_FOLDER = Path(__file__).parent / "model"
"""The trained model of coloured shapes, in diffusers' layout."""
