"""A ComfyUI server of its own for tests: started as a program, spoken to over HTTP and its WebSocket."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from safetensors.torch import load_file

from tests.comfyui.workflows import FRAMES_KEPT, SOURCE_KEPT

ROOT = Path(__file__).parents[2]
PACK = "video-editing-nodes"
"""The pack's folder in custom_nodes: not its own name."""
READY = "To see the GUI go to"
SLOW = float(os.environ.get("FATEZERO_SLOW") or 1)
"""Factor for the waits on a machine that has other work to do."""
START_LIMIT, RUN_LIMIT, CALL_LIMIT = 180 * SLOW, 240 * SLOW, 60 * SLOW
"""Seconds; no wait is longer."""
ENDS = {"execution_success", "execution_error", "execution_interrupted"}
PREVIEWS = {1, 4}
"""Kinds of the server's binary messages that hold a preview picture: plain, and with its node's id."""
TEXT = 3
"""Kind of those with a node's text, behind the length of the node's id and the id."""


class Server:
    """ComfyUI on a free port, its folders in `base`; the user's own are not touched. Use it in a `with`.

    pack: the folder in custom_nodes that holds the nodes
    """

    def __init__(self, comfyui, base, *flags, pack=PACK):
        self.base, self.lines = Path(base), []
        for name in ("custom_nodes", "input", "output", "temp", "user", "models"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        (self.base / "custom_nodes" / pack).symlink_to(ROOT, target_is_directory=True)
        (self.base / "custom_nodes" / "frames_node.py").symlink_to(Path(__file__).with_name("frames_node.py"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        listen = ["--cpu", "--listen", "127.0.0.1", "--port", str(port), "--disable-api-nodes", "--disable-auto-launch"]
        command = [sys.executable, "main.py", *listen, "--base-directory", str(self.base), *flags]
        command += ["--database-url", f"sqlite:///{self.base / 'user' / 'tests.db'}"]
        self._ready = threading.Event()
        self._program = subprocess.Popen(
            command, cwd=comfyui, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._program.stdout:
            self.lines.append(line.rstrip())
            if READY in line:
                self._ready.set()
        self._ready.set()

    def __enter__(self):
        try:
            self._ready.wait(START_LIMIT)
        except BaseException:
            self.__exit__()
            raise
        if self._program.poll() is not None or not any(READY in line for line in self.lines):
            self.__exit__()
            raise RuntimeError("ComfyUI did not start:\n" + "\n".join(self.lines[-40:]))
        return self

    def __exit__(self, *_error):
        self._program.terminate()
        try:
            self._program.wait(20)
        except subprocess.TimeoutExpired:
            self._program.kill()
            self._program.wait(20)
        self._reader.join(20)

    def get(self, path):
        """The JSON at `path`."""
        with urlopen(self.url + path, timeout=CALL_LIMIT) as answer:
            return json.load(answer)

    def file(self, shown):
        """The bytes of a file that a node showed."""
        names = {name: shown[name] for name in ("filename", "subfolder", "type")}
        with urlopen(f"{self.url}/view?{urlencode(names)}", timeout=CALL_LIMIT) as answer:
            return answer.read()

    def frames(self, done):
        """The frames that came in and those that went out, [frames, height, width, 3] each; see `with_frames`."""
        names = [done.history["outputs"][node]["frames"][0] for node in (SOURCE_KEPT, FRAMES_KEPT)]
        return [load_file(self.base / "output" / name)["frames"] for name in names]

    def clip(self, done, path):
        """The clip that a prompt saved, downloaded to `path` as a client does."""
        shown = [entry for node in done.history["outputs"] for entry in done.saved(node)]
        (clip,) = [entry for entry in shown if entry["filename"].endswith(".mp4")]
        path.write_bytes(self.file(clip))
        return path

    def post(self, path, content):
        """(status, JSON or None) of the answer."""
        request = Request(self.url + path, json.dumps(content).encode(), {"Content-Type": "application/json"})
        try:
            with urlopen(request, timeout=CALL_LIMIT) as answer:
                status, text = answer.status, answer.read()
        except HTTPError as error:
            status, text = error.code, error.read()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, None

    def run(self, graph, on_event=None):
        """Queue a graph and wait until it has ended; `on_event(event, data)` sees every message about it."""
        with ThreadPoolExecutor(1) as thread:  # the browser's driver has a loop of its own in this one
            return thread.submit(asyncio.run, asyncio.wait_for(self._run(graph, on_event), RUN_LIMIT)).result()

    async def _run(self, graph, on_event):
        import aiohttp  # ComfyUI's own; the rest of the tests has none

        client, done = uuid.uuid4().hex, Done()
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{self.url}/ws?clientId={client}", max_msg_size=0) as wire,
        ):
            async with session.post(f"{self.url}/prompt", json={"prompt": graph, "client_id": client}) as answer:
                done.status, done.answer = answer.status, await answer.json()
            if done.status != 200:
                return done
            async for message in wire:
                if message.type == aiohttp.WSMsgType.BINARY:
                    kind, body = int.from_bytes(message.data[:4], "big"), message.data[4:]
                    done.previews += kind in PREVIEWS
                    if kind == TEXT:
                        done.texts.append(body[4 + int.from_bytes(body[:4], "big") :].decode())
                elif message.type == aiohttp.WSMsgType.TEXT:
                    event = json.loads(message.data)
                    if await self._followed(done, event["type"], event["data"], on_event):
                        break
        done.history = self.get(f"/history/{done.answer['prompt_id']}")[done.answer["prompt_id"]]
        return done

    async def _followed(self, done, event, data, on_event):
        """Whether the prompt has ended: its history is written before ComfyUI says that nothing runs any more."""
        if data.get("prompt_id") not in (None, done.answer["prompt_id"]):
            return False
        done.events.append((event, data))
        if on_event is not None:
            await asyncio.to_thread(on_event, event, data)
        return event == "executing" and data["node"] is None


@dataclass
class Done:
    """What came of one prompt.

    status, answer: of POST /prompt
    events:         messages about it, in order
    previews:       how many preview pictures came
    texts:          what nodes said
    history:        what GET /history says of it
    """

    status: int = 0
    answer: dict = field(default_factory=dict)
    events: list = field(default_factory=list)
    previews: int = 0
    texts: list = field(default_factory=list)
    history: dict = field(default_factory=dict)

    @property
    def end(self):
        """(event, data) with which it ended."""
        return [(event, data) for event, data in self.events if event in ENDS][-1]

    @property
    def executed(self):
        """Ids of the nodes that ran."""
        return [data["node"] for event, data in self.events if event == "executing" and data["node"] is not None]

    def saved(self, node):
        """What the node's last run showed as files."""
        shown = self.history["outputs"][node]
        return [entry for name in ("images", "video", "gifs") for entry in shown.get(name, ())]
