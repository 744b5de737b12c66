"""Numbers of bytes as users read them."""

import pytest

from fatezero_ext.printable import format_bytes


@pytest.mark.parametrize(
    ("nbytes", "shown"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (5.5 * 2**20, "5.5 MiB"),
        (2**30, "1.00 GiB"),
        (69.4 * 2**30, "69.40 GiB"),
    ],
)
def test_bytes_are_shown_in_the_largest_unit_that_fits(nbytes, shown):
    assert format_bytes(nbytes) == shown
