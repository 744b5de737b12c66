"""The keys of a scheduler's config, each with the values it may have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..config_rules import (
    FLAG,
    FRACTION,
    NOTHING,
    Config,
    Rule,
    checked,
    each,
    either,
    misfit,
    number,
    one_of,
    whole_number,
)

TRAINING_STEPS = 100_000
SCHEDULER: Mapping[str, Rule] = {
    "num_train_timesteps": whole_number(1, TRAINING_STEPS),
    "beta_start": number(1e-12, 0.999),
    "beta_end": number(1e-12, 0.999),
    "beta_schedule": one_of("linear", "scaled_linear", "squaredcos_cap_v2"),
    "trained_betas": either(each(FRACTION, TRAINING_STEPS), NOTHING),
    "clip_sample": FLAG,
    "set_alpha_to_one": FLAG,
    "steps_offset": whole_number(0, TRAINING_STEPS),
    "prediction_type": Rule("a word of at most 40 letters", lambda x: isinstance(x, str) and len(x) <= 40),
    "thresholding": FLAG,
    "dynamic_thresholding_ratio": FRACTION,
    "clip_sample_range": number(0, 1e6),
    "sample_max_value": number(0, 1e6),
    "timestep_spacing": one_of("leading", "trailing", "linspace"),
    "rescale_betas_zero_snr": FLAG,
}
"""Of diffusers' DDIMScheduler, which reads those of most others."""


def checked_scheduler(config: Mapping[str, object], source: Path | str) -> Config:
    """What a config says of a noise schedule."""
    kept = checked(config, SCHEDULER, source)
    steps, offset = kept.get("num_train_timesteps", 1000), kept.get("steps_offset", 0)
    betas = kept.get("trained_betas")
    if betas is not None and len(betas) != steps:
        raise misfit(source, f"{len(betas)} trained_betas", f"as many as num_train_timesteps, {steps},")
    if offset >= steps:
        raise misfit(source, f"steps_offset {offset}", f"less than num_train_timesteps, {steps},")
    return kept
