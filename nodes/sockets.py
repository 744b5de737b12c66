"""The sockets of values that only this pack has."""

from __future__ import annotations

from .api import io

UNET = io.Custom("FATEZERO_UNET")
CONTROLLER = io.Custom("FATEZERO_CONTROLLER")
