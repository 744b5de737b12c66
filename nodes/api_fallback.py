"""The part of `comfy_api.v0_0_2.io` that the nodes use, for programs without ComfyUI.

Names and keyword arguments are those of ComfyUI.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Generic, Protocol, TypeVar


class Hidden(str, Enum):
    """Facts about the running graph that a node may ask for."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    dynprompt = "DYNPROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"


class RunningGraph(Protocol):
    """The graph that runs, with the nodes that others have put in their place."""

    def get_node(self, node_id: str) -> dict[str, Any]:
        """Return a node in the API's format."""


@dataclass(frozen=True)
class HiddenHolder:
    """The hidden facts as `cls.hidden`; None stands for a fact that the node did not ask for."""

    unique_id: str | None = None
    prompt: dict[str, Any] | None = None
    dynprompt: RunningGraph | None = None
    extra_pnginfo: dict[str, Any] | None = None


class UploadType(str, Enum):
    """Kinds of files that a combo lets the user upload."""

    image = "image_upload"
    video = "video_upload"


class NumberDisplay(str, Enum):
    """Ways to draw a number widget."""

    number = "number"
    slider = "slider"


@dataclass
class Input:
    """One socket of a node; None means that the setting was not made."""

    io_type: ClassVar[str] = "*"
    id: str
    display_name: str | None = None
    optional: bool = False
    tooltip: str | None = None
    lazy: bool | None = None
    extra_dict: dict[str, Any] = field(default_factory=dict)

    def get_io_type(self) -> str:
        """Return the types that the socket takes, separated by commas."""
        return self.io_type


@dataclass
class WidgetInput(Input):
    """A socket that also has a widget, unless `force_input` takes the widget away."""

    default: Any = None
    socketless: bool | None = None
    force_input: bool | None = None


@dataclass
class Output:
    """One output socket of a node."""

    io_type: ClassVar[str] = "*"
    id: str | None = None
    display_name: str | None = None
    tooltip: str | None = None
    is_output_list: bool = False

    def get_io_type(self) -> str:
        """Return the type of the values that the socket gives."""
        return self.io_type


@dataclass
class BooleanInput(WidgetInput):
    """A switch."""

    label_on: str | None = None
    label_off: str | None = None


@dataclass
class IntInput(WidgetInput):
    """A whole number."""

    min: int | None = None
    max: int | None = None
    step: int | None = None
    control_after_generate: bool | None = None
    display_mode: NumberDisplay | None = None


@dataclass
class FloatInput(WidgetInput):
    """A number."""

    min: float | None = None
    max: float | None = None
    step: float | None = None
    round: float | None = None
    display_mode: NumberDisplay | None = None


@dataclass
class StringInput(WidgetInput):
    """A text."""

    multiline: bool = False
    placeholder: str | None = None
    dynamic_prompts: bool | None = None


@dataclass
class ComboInput(WidgetInput):
    """A choice from a list, or from the values of an enumeration."""

    options: Any = None
    control_after_generate: bool | None = None
    upload: UploadType | None = None

    def __post_init__(self) -> None:
        if isinstance(self.options, type) and issubclass(self.options, Enum):
            self.options = [member.value for member in self.options]
        if isinstance(self.default, Enum):
            self.default = self.default.value


InputClass = TypeVar("InputClass", bound=Input)


class SocketType(Generic[InputClass]):
    """A type of socket: `Name.Input(...)` and `Name.Output(...)` make its ends."""

    def __init__(self, io_type: str, input_class: type[InputClass]) -> None:
        self.io_type = io_type
        self.Input: type[InputClass] = type("Input", (input_class,), {"io_type": io_type})
        self.Output: type[Output] = type("Output", (Output,), {"io_type": io_type})


def Custom(io_type: str) -> SocketType[Input]:
    """Make a socket type that only connects to sockets of the same name."""
    return SocketType(io_type, Input)


Boolean = SocketType("BOOLEAN", BooleanInput)
Int = SocketType("INT", IntInput)
Float = SocketType("FLOAT", FloatInput)
String = SocketType("STRING", StringInput)
Combo = SocketType("COMBO", ComboInput)
AnyType = SocketType("*", Input)
Audio = SocketType("AUDIO", Input)
Clip = SocketType("CLIP", Input)
Conditioning = SocketType("CONDITIONING", Input)
Image = SocketType("IMAGE", Input)
Latent = SocketType("LATENT", Input)
Mask = SocketType("MASK", Input)
Model = SocketType("MODEL", Input)
Vae = SocketType("VAE", Input)
Video = SocketType("VIDEO", Input)


@dataclass
class MultiTypeInput(Input):
    """A socket that takes several types.

    types: socket types such as `Image`
    """

    io_type: ClassVar[str] = "COMFY_MULTITYPED_V3"
    types: list[SocketType[Any]] = field(default_factory=list)

    def get_io_type(self) -> str:
        """Return the names of all types, separated by commas."""
        return ",".join(dict.fromkeys(kind.io_type for kind in self.types))


class MultiType:
    """The sockets of nodes that take several types."""

    Input = MultiTypeInput


@dataclass
class Schema:
    """A node's name, inputs, outputs and help."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    hidden: list[Hidden] = field(default_factory=list)
    description: str = ""
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    not_idempotent: bool = False
    enable_expand: bool = False

    def validate(self) -> None:
        """Raise ValueError if two sockets share an id."""
        sockets: tuple[Input | Output, ...] = (*self.inputs, *self.outputs)
        ids = [socket.id for socket in sockets if socket.id is not None]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ValueError(f"socket ids of a node must be unique; {self.node_id} repeats {twice}. Rename them.")


class NodeOutput:
    """The return value of a node: one value per output, what the node shows, and nodes to run in its place.

    expand: nodes by id in the API's format, see `GraphBuilder`; the values are then links to their outputs
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - outputs have any type
        ui: dict[str, Any] | None = None,
        expand: dict[str, Any] | None = None,
    ) -> None:
        self.args = args
        self.ui = ui
        self.expand = expand

    @property
    def result(self) -> tuple[Any, ...] | None:
        """The outputs, or None if there are none."""
        return self.args or None


@dataclass(frozen=True)
class BuiltNode:
    """A node of a `GraphBuilder`."""

    id: str
    class_type: str
    inputs: dict[str, Any]

    def out(self, index: int) -> list[str | int]:
        """Return a link to one of its outputs."""
        return [self.id, index]


class GraphBuilder:
    """The nodes that a node puts in its place; the program that runs them makes their ids unique."""

    def __init__(self) -> None:
        self._nodes: dict[str, BuiltNode] = {}

    def node(self, class_type: str, id: str, **inputs: Any) -> BuiltNode:  # noqa: ANN401 - as in ComfyUI
        """Add a node; inputs: constants and links."""
        return self._nodes.setdefault(id, BuiltNode(id, class_type, inputs))

    def finalize(self) -> dict[str, Any]:
        """Return the nodes by id in the API's format."""
        return {node.id: {"class_type": node.class_type, "inputs": node.inputs} for node in self._nodes.values()}


class ComfyNode:
    """A node: a class that is never instantiated, with `define_schema` and `execute`.

    `validate_inputs` and `fingerprint_inputs` are optional; as long as a node does not define them they are None here.
    """

    hidden: HiddenHolder = HiddenHolder()
    execute: ClassVar[Any]
    validate_inputs: ClassVar[Any] = None
    fingerprint_inputs: ClassVar[Any] = None

    @classmethod
    def define_schema(cls) -> Schema:
        """Return the node's schema."""
        raise NotImplementedError(f"{cls.__name__} has no define_schema; every node needs one. Add it.")

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        """Return the validated schema."""
        schema = cls.define_schema()
        schema.validate()
        return schema


class ComfyExtension(ABC):
    """A node pack, as `comfy_entrypoint` returns it."""

    @abstractmethod
    async def get_node_list(self) -> list[type[ComfyNode]]:
        """Return the pack's node classes."""
