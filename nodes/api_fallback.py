"""What `comfy_api.latest.io` offers to nodes, for use where there is no ComfyUI.

Only the parts that the nodes and the headless runner need, with the same names and keyword arguments.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar


class Hidden(str, Enum):
    """Facts about the running graph that a node may ask for."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"


@dataclass(frozen=True)
class HiddenHolder:
    """The hidden facts as `cls.hidden`; None stands for one that was not given."""

    unique_id: str | None = None
    prompt: dict[str, Any] | None = None
    extra_pnginfo: dict[str, Any] | None = None


class UploadType(str, Enum):
    """What a file combo lets the user upload."""

    image = "image_upload"
    video = "video_upload"


class NumberDisplay(str, Enum):
    """How a number widget is drawn."""

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
        """The types that it takes, separated by commas."""
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
        """The type that it gives."""
        return self.io_type


@dataclass
class _BooleanInput(WidgetInput):
    label_on: str | None = None
    label_off: str | None = None


@dataclass
class _IntInput(WidgetInput):
    min: int | None = None
    max: int | None = None
    step: int | None = None
    control_after_generate: bool | None = None
    display_mode: NumberDisplay | None = None


@dataclass
class _FloatInput(WidgetInput):
    min: float | None = None
    max: float | None = None
    step: float | None = None
    round: float | None = None
    display_mode: NumberDisplay | None = None


@dataclass
class _StringInput(WidgetInput):
    multiline: bool = False
    placeholder: str | None = None
    dynamic_prompts: bool | None = None


@dataclass
class _ComboInput(WidgetInput):
    options: Any = None
    control_after_generate: bool | None = None
    upload: UploadType | None = None

    def __post_init__(self) -> None:
        if isinstance(self.options, type) and issubclass(self.options, Enum):
            self.options = [member.value for member in self.options]
        if isinstance(self.default, Enum):
            self.default = self.default.value


class SocketType:
    """A type of socket: `Name.Input(...)` and `Name.Output(...)` make its ends."""

    io_type: ClassVar[str]
    Input: ClassVar[type[Input]]
    Output: ClassVar[type[Output]]


def _socket(io_type: str, input_class: type[Input] = Input) -> type[SocketType]:
    ends = {
        "Input": type("Input", (input_class,), {"io_type": io_type}),
        "Output": type("Output", (Output,), {"io_type": io_type}),
    }
    return type(io_type, (SocketType,), {"io_type": io_type, **ends})


def Custom(io_type: str) -> type[SocketType]:
    """Make a socket type that only connects to sockets of the same name."""
    return _socket(io_type)


Boolean = _socket("BOOLEAN", _BooleanInput)
Int = _socket("INT", _IntInput)
Float = _socket("FLOAT", _FloatInput)
String = _socket("STRING", _StringInput)
Combo = _socket("COMBO", _ComboInput)
AnyType = _socket("*")


class MultiType:
    """A socket that takes several types."""

    @dataclass
    class Input(Input):
        """types: classes such as `Image`."""

        io_type: ClassVar[str] = "COMFY_MULTITYPED_V3"
        types: list[type[SocketType]] = field(default_factory=list)

        def get_io_type(self) -> str:
            """All their names."""
            return ",".join(dict.fromkeys(kind.io_type for kind in self.types))


Audio = _socket("AUDIO")
Clip = _socket("CLIP")
Conditioning = _socket("CONDITIONING")
Image = _socket("IMAGE")
Latent = _socket("LATENT")
Mask = _socket("MASK")
Model = _socket("MODEL")
Vae = _socket("VAE")
Video = _socket("VIDEO")


@dataclass
class Schema:
    """What a node is called, takes and gives."""

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

    def validate(self) -> None:
        """Raise ValueError where two sockets share an id."""
        ids = [socket.id for socket in (*self.inputs, *self.outputs) if socket.id is not None]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ValueError(f"socket ids of a node must be unique; {self.node_id} repeats {twice}. Rename them.")


class NodeOutput:
    """What a node returns: one value per output, and what it shows."""

    def __init__(self, *args: Any, ui: dict[str, Any] | None = None) -> None:  # noqa: ANN401 - outputs have any type
        self.args = args
        self.ui = ui

    @property
    def result(self) -> tuple[Any, ...] | None:
        """The outputs, or None where there are none."""
        return self.args or None


class ComfyNode:
    """A node: a class that is never instantiated, with `define_schema` and `execute`.

    `validate_inputs` and `fingerprint_inputs` are optional; as long as a node does not define them they are None here.
    """

    hidden: HiddenHolder = HiddenHolder()
    validate_inputs: ClassVar[Any] = None
    fingerprint_inputs: ClassVar[Any] = None

    @classmethod
    def define_schema(cls) -> Schema:
        """Say what the node is called, takes and gives."""
        raise NotImplementedError(f"{cls.__name__} has no define_schema; every node needs one. Add it.")

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        """The validated schema."""
        schema = cls.define_schema()
        schema.validate()
        return schema


class ComfyExtension(ABC):
    """What `comfy_entrypoint` returns: the list of a pack's nodes."""

    @abstractmethod
    async def get_node_list(self) -> list[type[ComfyNode]]:
        """The pack's node classes."""
