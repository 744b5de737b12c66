"""Connection to ComfyUI's server: nodes read the graph that is validated, and mistakes reach their inputs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from .verdicts import begin, put_answer_right, validating


def show_graphs_to_nodes() -> None:
    """Let nodes see the graph that ComfyUI's server validates, if there is a server; see `verdicts`.

    Through the server's own ways to follow it: its handlers of prompts, and a middleware of its aiohttp application.
    """
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    application = getattr(server, "app", None)
    if server is None or application is None or application.frozen:
        return
    from aiohttp import web

    @web.middleware
    async def put_right(request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        if request.method != "POST" or not request.path.endswith("/prompt"):
            return await handler(request)
        with validating(None):  # a connection's requests share their context
            answer = await handler(request)
            if isinstance(answer, web.Response) and answer.content_type == "application/json":
                put_answer_right(answer)
            return answer

    application.middlewares.append(put_right)
    server.add_on_prompt_handler(begin)
