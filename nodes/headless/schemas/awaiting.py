"""Node methods may be plain or async; the runner takes both."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any


def finished(result: Any) -> Any:  # noqa: ANN401 - whatever the method returns
    """The result itself, or what it resolves to where it is awaitable."""
    if not inspect.isawaitable(result):
        return result

    async def wait() -> Any:  # noqa: ANN401 - whatever the method returns
        return await result

    return asyncio.run(wait())
