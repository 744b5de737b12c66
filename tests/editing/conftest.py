"""What the tests of edits share."""

import pytest
import torch

from fatezero_ext import InflationSettings, load_model

from ..conftest import GOLDEN


@pytest.fixture(scope="session")
def exact_model():
    """The reference model in float64, with group norms per frame and keys of the middle frame."""
    return load_model(GOLDEN / "model", InflationSettings(key_frames=("mid",), norm="frame"), dtype=torch.float64)
