"""The inversion of default settings and the edits that start from it, against the authors' program."""

import pytest

from ..conftest import THOROUGH
from ..golden_checks import (
    check_attention_masks,
    check_computed_again,
    check_edited_latents,
    check_every_map,
    check_inverted_latents,
    check_latent_masks,
    check_maps_of_neighbouring_steps,
    statistics,
)
from ..golden_runs import inverted

__all__ = ["inverted", "statistics"]
pytestmark = pytest.mark.slow

INVERSION = "inv_default_n6"
EDITS = ("A_recon", "C2_shape_th065", "D2_latentblend_th065")
USUAL_PAIRS = list(zip(EDITS, ("features", "maps", "features"), strict=True))
ALL_PAIRS = [(name, policy) for name in EDITS for policy in ("features", "maps", "recompute")]


def test_inverted_latents(golden, inverted):
    check_inverted_latents(golden, inverted, INVERSION)


def test_every_map_of_an_inversion(golden, statistics):
    check_every_map(golden, statistics, INVERSION)


def test_no_map_passes_for_that_of_a_neighbouring_step(golden, statistics):
    check_maps_of_neighbouring_steps(golden, statistics, INVERSION)


def test_attention_masks(golden, model, inverted):
    check_attention_masks(golden, model, inverted, "C2_shape_th065")


def test_latent_masks(golden, model, inverted):
    check_latent_masks(golden, model, inverted, "D2_latentblend_th065")


def test_running_the_source_again_gives_the_kept_features(inverted):
    check_computed_again(inverted, INVERSION)


@pytest.mark.parametrize(("name", "policy"), ALL_PAIRS if THOROUGH else USUAL_PAIRS)
def test_edited_latents(golden, model, inverted, name, policy):
    check_edited_latents(golden, model, inverted, name, policy)
