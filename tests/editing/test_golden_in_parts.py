"""Reference runs two frames at a time, against the authors' program, whose norms and layers over time see all four.

The tuned run has all that the untrained one has, and layers over time beside it; FATEZERO_THOROUGH runs both.
"""

import pytest

from ..conftest import THOROUGH
from ..golden_checks import check_edited_latents, check_inverted_latents
from ..golden_runs import inverted

__all__ = ["inverted"]
pytestmark = pytest.mark.slow

EDITS = ("F2_shape_tuned_th065", *(("C2_shape_th065",) if THOROUGH else ()))
INVERSIONS = ("inv_tuned_n6", *(("inv_default_n6",) if THOROUGH else ()))


@pytest.mark.parametrize("name", EDITS)
def test_edited_latents_two_frames_at_a_time(golden, model, inverted, name):
    check_edited_latents(golden, model, inverted, name, "recompute", frames_at_once=2)


@pytest.mark.parametrize("name", INVERSIONS)
def test_inverted_latents_two_frames_at_a_time(golden, inverted, name):
    check_inverted_latents(golden, lambda name: inverted(name, "recompute", 2), name)
