"""Noise prediction: a model as the loops call it, its schedule and its texts."""
