"""Keys of a scheduler's config, each with the values it may have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..untrusted.config_rules import (
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
"""Keys of diffusers' DDIMScheduler, which reads the configs of most others."""


def checked_scheduler(config: Mapping[str, object], source: Path | str) -> Config:
    """Return the keys of a config that describe a noise schedule; raise ModelError for values that do not fit."""
    known = checked(config, SCHEDULER, source)
    values: Mapping[str, Any] = known
    steps, offset, betas = (
        values.get("num_train_timesteps", 1000),
        values.get("steps_offset", 0),
        values.get("trained_betas"),
    )
    if betas is not None and len(betas) != steps:
        raise misfit(source, f"{len(betas)} trained_betas", f"as many as num_train_timesteps, {steps},")
    if offset >= steps:
        raise misfit(source, f"steps_offset {offset}", f"less than num_train_timesteps, {steps},")
    return known
