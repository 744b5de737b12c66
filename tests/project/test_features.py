"""The list of features is complete: no line of it is without a test."""

import re
from pathlib import Path

from ..features import FEATURES


def test_every_feature_is_held_by_a_test():
    marks = re.compile(r'@feature\("([^"]+)"\)')
    marked = {name for path in Path(__file__).parents[1].rglob("test_*.py") for name in marks.findall(path.read_text())}
    assert marked == set(FEATURES)
