"""Widgets of Tune on Clip that its tests leave as they are."""

UNCHANGED = {
    "recipe": "fatezero",
    "temporal_rank": 4,
    "training_seed": 0,
    "gradient_checkpointing": True,
    "warmup_steps": 0,
    "accumulation": 1,
}
