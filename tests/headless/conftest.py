"""Small real nodes, and a runner for graphs of them."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from fatezero_ext.cli.node_pack import load_pack

MODULES = {
    "problems": "problems",
    "graph": "graph",
    "registry": "schemas.registry",
    "workflow": "formats.read",
    "settings": "schemas.overrides",
    "validate": "schemas.validate",
    "execute": "run.execute",
    "folders": "host",
    "report": "run.progress",
    "command": "command",
    "cache_keys": "run.cache_keys",
    "naming": "core_nodes.naming",
}


@pytest.fixture(scope="session")
def headless():
    """The runner's modules by name, as the pack has them."""
    modules = {name: load_pack(f"nodes.headless.{module}") for name, module in MODULES.items()}
    return SimpleNamespace(**modules, api=load_pack("nodes.api"), host=load_pack("nodes.host"))


def number_nodes(io, calls):
    """Nodes over whole numbers; each `execute` adds the node's name and result to `calls`."""

    class Number(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            value = io.Int.Input("value", default=1, min=0, max=10)
            mode = io.Combo.Input("mode", options=["plain", "double"], default="plain")
            exact = io.Boolean.Input("exact", default=True, optional=True)
            return io.Schema(
                node_id="Number", display_name="A number", inputs=[value, mode, exact], outputs=[io.Int.Output()]
            )

        @classmethod
        def execute(cls, value, mode, exact=True):
            calls.append(("Number", value))
            return io.NodeOutput(value * 2 if mode == "double" else value)

    class Sum(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            a = io.Int.Input("a", force_input=True)
            b = io.Int.Input("b", force_input=True, optional=True)
            return io.Schema(node_id="Sum", inputs=[a, b], outputs=[io.Int.Output(), io.Int.Output()])

        @classmethod
        async def execute(cls, a, b=0):
            calls.append(("Sum", a + b))
            return io.NodeOutput(a + b, a - b)

    class Noise(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            seed = io.Int.Input("seed", default=0, min=0, max=2**64 - 1)
            scale = io.Float.Input("scale", default=1.0, min=0.0, max=2.0)
            text = io.String.Input("text", default="", multiline=True)
            return io.Schema(node_id="Noise", inputs=[seed, scale, text], outputs=[io.String.Output()])

        @classmethod
        def execute(cls, seed, scale, text):
            return io.NodeOutput(f"{seed} {scale} {text}")

    class Strict(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            value = io.Int.Input("value", default=1, min=0, max=3)
            other = io.Int.Input("other", default=1, min=0, max=3)
            return io.Schema(node_id="Strict", inputs=[value, other], outputs=[io.Int.Output()])

        @classmethod
        def validate_inputs(cls, value):
            return True if value % 2 else f"{value} is even; an odd number is needed. Add one."

        @classmethod
        def execute(cls, value, other):
            return io.NodeOutput(value)

    class Show(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            source = io.AnyType.Input("source")
            return io.Schema(node_id="Show", inputs=[source], outputs=[], is_output_node=True)

        @classmethod
        def execute(cls, source):
            calls.append(("Show", source))
            return io.NodeOutput(ui={"text": (str(source),)})

    class Fail(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Fail", inputs=[io.Int.Input("a", force_input=True)], outputs=[io.Int.Output()])

        @classmethod
        def execute(cls, a):
            raise ZeroDivisionError(f"cannot divide by {a}")

    class Interrupt(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Interrupt", inputs=[io.AnyType.Input("a")], outputs=[io.Int.Output()])

        @classmethod
        def execute(cls, a):
            raise KeyboardInterrupt

    return [Number, Sum, Noise, Strict, Show, Fail, Interrupt]


@dataclass
class Watched:
    """An observer that remembers which nodes were reused."""

    reused: list = field(default_factory=list)

    def started(self, label, number, count):
        pass

    def ended(self, label, seconds, *, reused):
        if reused:
            self.reused.append(label)


@pytest.fixture
def calls():
    """What ran, in order."""
    return []


@pytest.fixture
def types(headless, calls):
    """The number nodes and the core stand-ins."""
    core = load_pack("nodes.headless.core_nodes").CORE_NODES
    return headless.registry.node_types([*core, *number_nodes(headless.api.io, calls)])


@pytest.fixture
def run(headless, types):
    """Validate and run parsed documents in turn; returns what the Show nodes showed, and the labels reused."""

    def run_documents(*documents):
        graphs = [headless.validate.validated(headless.workflow.graph_from(d, types), types) for d in documents]
        watched = Watched()
        shown = [
            [result.shown["text"][0] for result in results.values() if "text" in result.shown]
            for results in headless.execute.run_graphs(graphs, types, watched)
        ]
        return shown, watched.reused

    return run_documents


@pytest.fixture
def refused(headless, run):
    """Run a document that must be invalid; returns the error's text."""

    def run_invalid(document):
        with pytest.raises(headless.problems.InvalidWorkflow) as caught:
            run(document)
        return str(caught.value)

    return run_invalid
