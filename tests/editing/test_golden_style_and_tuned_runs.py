"""The inversions of a style edit and of a tuned UNet, and the edits from them, against the authors' program."""

import pytest

from ..conftest import THOROUGH
from ..golden_checks import (
    check_attention_masks,
    check_edited_latents,
    check_every_map,
    check_inverted_latents,
    check_maps_of_neighbouring_steps,
    statistics,
)
from ..golden_runs import inverted

__all__ = ["inverted", "statistics"]
pytestmark = pytest.mark.slow

INVERSIONS = ("inv_style_n10", "inv_tuned_n6")
EDITS = ("B_style", "F2_shape_tuned_th065")
POLICIES = ("features", "maps", "recompute") if THOROUGH else ("features",)


@pytest.mark.parametrize("name", INVERSIONS)
def test_inverted_latents(golden, inverted, name):
    check_inverted_latents(golden, inverted, name)


@pytest.mark.parametrize("name", INVERSIONS)
def test_every_map_of_an_inversion(golden, statistics, name):
    check_every_map(golden, statistics, name)


@pytest.mark.parametrize("name", INVERSIONS)
def test_no_map_passes_for_that_of_a_neighbouring_step(golden, statistics, name):
    check_maps_of_neighbouring_steps(golden, statistics, name)


def test_attention_masks(golden, model, inverted):
    check_attention_masks(golden, model, inverted, "F2_shape_tuned_th065")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", EDITS)
def test_edited_latents(golden, model, inverted, name, policy):
    check_edited_latents(golden, model, inverted, name, policy)
