"""ComfyUI's own loader, validation and executor in this process."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import uuid
from dataclasses import dataclass, field

EXTRAS = ("nodes_video", "nodes_mask", "nodes_images")
"""Files of ComfyUI's core nodes that the example workflows use."""
PRESSED = 2.0**40
"""GiB that the cache under memory pressure is told to keep free: more than there are, so that it always lets go."""


class Server:
    """Stands for ComfyUI's web server: remembers what would have been sent to the page."""

    client_id = "tests"
    last_node_id = None
    last_prompt_id = None

    def __init__(self):
        self.sent = []
        self.sockets_metadata = {}

    def send_sync(self, event, data, sid=None):
        self.sent.append((event, data))

    def send_progress_text(self, text, node_id, sid=None):
        self.sent.append(("progress_text", {"text": text, "node": node_id}))


@dataclass
class Run:
    """What one prompt gave.

    refused:     errors of the validation by node id, {} where the prompt ran
    executed:    ids of the nodes that ran, in this order
    cached:      ids of the nodes whose results were there before
    shown:       what nodes showed, by node id
    error:       what the page is told of a node that failed, None where all went well
    interrupted: id of the node at which the run was stopped, None where it was not
    said:        the lines that nodes showed while they ran
    """

    refused: dict = field(default_factory=dict)
    executed: list = field(default_factory=list)
    cached: list = field(default_factory=list)
    shown: dict = field(default_factory=dict)
    error: dict | None = None
    interrupted: str | None = None
    said: list = field(default_factory=list)

    def latents(self, node):
        """The digest of the latents and mask that a TestKeepLatents node was given."""
        assert not self.refused and self.error is None, (self.refused, self.error)
        return self.shown[node]["digest"][0]


class Executor:
    """ComfyUI's executor with a cache: classic, lru N, none, ram (keeps all), ram pressed (keeps little)."""

    def __init__(self, cache="classic"):
        self.server = Server()
        self._executor = _executor(self.server, cache)

    def run(self, graph):
        """Validate and run a graph of the API format."""
        from server import PromptServer

        PromptServer.instance, name = self.server, str(uuid.uuid4())
        valid, error, outputs, refused = validated(name, graph)
        if not valid:
            return Run(refused=refused or {"": error})
        self.server.sent.clear()
        self._executor.execute(graph, name, {"client_id": "tests"}, outputs)
        return self._run()

    def forget(self):
        """What ComfyUI does with its results on POST /free."""
        self._executor.reset()

    def _run(self):
        told = {event: data for event, data in self._executor.status_messages}
        sent = self.server.sent
        return Run(
            executed=[data["node"] for event, data in sent if event == "executing" and data["node"] is not None],
            cached=told["execution_cached"]["nodes"],
            shown=self._executor.history_result["outputs"],
            error=told.get("execution_error"),
            interrupted=told.get("execution_interrupted", {}).get("node_id"),
            said=[data["text"] for event, data in sent if event == "progress_text"],
        )


def caches():
    """The caches that the running version has, as `Executor` takes them."""
    from execution import CacheType

    more = ["ram", "ram pressed"] if hasattr(CacheType, "RAM_PRESSURE") else []
    return ["classic", "lru 1", "lru 50", "none", *more]


def validated(name, graph):
    """ComfyUI's own validation: (valid, error, output nodes, errors by node id)."""
    from execution import validate_prompt

    return asyncio.run(validate_prompt(name, graph, None))


def _executor(server, cache):
    from execution import CacheType, PromptExecutor

    kind, _, number = cache.partition(" ")
    names = {"classic": "CLASSIC", "lru": "LRU", "none": "NONE", "ram": "RAM_PRESSURE"}
    if "cache_size" in inspect.signature(PromptExecutor).parameters:  # 0.3.64
        chosen = CacheType.DEPENDENCY_AWARE if kind == "none" else CacheType[names[kind]]
        return PromptExecutor(server, chosen, int(number or 0))
    ram = PRESSED if number == "pressed" else 0.0
    arguments = {"lru": int(number) if kind == "lru" else 0, "ram": ram, "ram_inactive": ram}
    return PromptExecutor(server, CacheType[names[kind]], arguments)


class KeepLatents:
    """An output node that shows a digest of the latents it is given, so that even a cached result can be compared."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "keep"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"samples": ("LATENT",)}, "optional": {"mask": ("MASK",)}}

    def keep(self, samples, mask=None):
        return {"ui": {"digest": [digest(samples["samples"], mask)]}}


def digest(latents, mask=None):
    """Of all bits of the latents and the mask."""
    found = hashlib.sha256()
    for tensor in (latents, mask):
        if tensor is not None:
            found.update(repr((tensor.shape, tensor.dtype)).encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


class AnyType(str):
    """Fits every input, also in versions that compare the names of types alone."""

    def __ne__(self, _other):
        return False

    __hash__ = str.__hash__


class Give:
    """A source of whatever a test has given, by name."""

    given = {}
    RETURN_TYPES = (AnyType("*"),)
    FUNCTION = "give"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"name": ("STRING", {"default": ""})}}

    def give(self, name):
        return (self.given[name],)


class Take:
    """An output node that lets a test look at a controller."""

    taken = []
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "take"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"controller": ("FATEZERO_CONTROLLER",)}}

    def take(self, controller):
        self.taken.append(controller)
        return {"ui": {}}


def load_nodes(comfyui, pack):
    """Load the pack, the core nodes of the examples, and the tests' own, by ComfyUI's loader.

    Returns the pack's name in `sys.modules`.
    """
    import folder_paths
    import server  # noqa: F401 - as main.py does, before `nodes`

    import nodes
    from fatezero_ext.cli.examples import EXAMPLES

    for name in EXTRAS:
        assert asyncio.run(nodes.load_custom_node(str(comfyui / "comfy_extras" / f"{name}.py"))), name
    before = set(nodes.NODE_CLASS_MAPPINGS)
    assert asyncio.run(nodes.load_custom_node(str(pack)))
    added = set(nodes.NODE_CLASS_MAPPINGS) - before
    assert added and all(name.startswith("FateZero_") for name in added)
    nodes.NODE_CLASS_MAPPINGS |= {"TestKeepLatents": KeepLatents, "TestGive": Give, "TestTake": Take}
    folder_paths.set_input_directory(str(EXAMPLES))
    return nodes.NODE_CLASS_MAPPINGS["FateZero_P2PEdit"].__module__.removesuffix(".nodes.method.edit")
