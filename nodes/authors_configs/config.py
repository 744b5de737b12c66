"""The keys of the authors' configs that have an effect, with their types and the authors' defaults."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from .errors import ConfigError, dotted

Pipeline = Literal[
    "video_diffusion.pipelines.p2p_ddim_spatial_temporal.P2pDDIMSpatioTemporalPipeline",
    "video_diffusion.pipelines.ddim_spatial_temporal.DDIMSpatioTemporalStableDiffusionPipeline",
]
P2P_PIPELINE, PLAIN_PIPELINE = get_args(Pipeline)
NEEDED = {
    "missing": "this key",
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "none_required": "nothing",
}
"""Needed value by pydantic's kind of error, in plain words."""


def _needs(what: str) -> PydanticCustomError:
    return PydanticCustomError("needed", "{needed}", {"needed": what})


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _window(value: Any) -> tuple[float, float]:  # noqa: ANN401 - unchecked YAML
    """Read a window; a number b means 0 to b."""
    bounds = [0, value] if _is_number(value) else value
    if not isinstance(bounds, list) or len(bounds) != 2 or not all(_is_number(b) and b >= 0 for b in bounds):
        raise _needs("a share of the steps such as 0.8, or a pair such as [0.2, 0.8], none negative")
    return float(bounds[0]), float(bounds[1])


def _windows(value: Any) -> dict[str, tuple[float, float]]:  # noqa: ANN401 - unchecked YAML
    """Read windows by word; a number or a pair is the window of all words."""
    if not isinstance(value, dict):
        return {"default_": _window(value)}
    if not all(isinstance(word, str) for word in value):
        raise _needs("'default_' or words of the edit prompt as keys")
    return {word: _window(bounds) for word, bounds in value.items()}


def _threshold(value: Any) -> list[float]:  # noqa: ANN401 - unchecked YAML
    if not isinstance(value, list) or not value or not all(_is_number(entry) for entry in value):
        raise _needs("a pair of numbers such as [0.3, 0.3]")
    return [float(entry) for entry in value]


def _word_lists(value: Any) -> list[list[str]] | None:  # noqa: ANN401 - unchecked YAML
    if value in (None, "None"):
        return None
    lists: list[Any] = (
        [[entry] if isinstance(entry, str) else entry for entry in value] if isinstance(value, list) else [None]
    )
    if not all(isinstance(words, list) and all(isinstance(word, str) for word in words) for words in lists):
        raise _needs("lists of words such as [[silver, jeep], [Porsche, car]]")
    return lists


def _words(value: Any) -> list[str]:  # noqa: ANN401 - unchecked YAML
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise _needs("a list of words")
    return words


def _key_frames(value: Any) -> list[int | str]:  # noqa: ANN401 - unchecked YAML
    if not isinstance(value, list) or not all(type(entry) in (int, str) for entry in value):
        raise _needs("a list of frames such as [-1, first]")
    return value


def _no_noise(value: Any) -> float:  # noqa: ANN401 - unchecked YAML
    if not _is_number(value) or value != 0:
        raise _needs("0, because an edit here draws nothing at random")
    return 0.0


def _no_fewer_frames(value: Any) -> None:  # noqa: ANN401 - unchecked YAML
    if value not in (None, False, 0):
        raise _needs("null, because a model that halves the frames on the way is not offered here")


def _by_index(value: Any) -> Any:  # noqa: ANN401 - unchecked YAML
    return dict(enumerate(value)) if isinstance(value, list) else value


Window = Annotated[tuple[float, float], BeforeValidator(_window)]


class Section(BaseModel):
    """A mapping of the file. Keys without a field are collected too, see `unused_keys`."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, protected_namespaces=(), allow_inf_nan=False)


AnySection = TypeVar("AnySection", bound=Section)


class Offset(Section):
    """Pixels cut off before scaling. An `offset` that does not say `top` cuts 200 there in the authors' program."""

    left: int = Field(default=0, ge=0)
    right: int = Field(default=0, ge=0)
    top: int = Field(default=200, ge=0)
    bottom: int = Field(default=0, ge=0)


class DatasetConfig(Section):
    """Selection of the frames, and their prompt."""

    path: str
    prompt: str
    start_sample_frame: Annotated[int, Field(ge=0)] | None = 0
    n_sample_frame: int = 8
    sampling_rate: int = Field(default=1, ge=1)
    image_size: int = Field(default=512, ge=8, multiple_of=8)
    crop: Literal["center"] = "center"
    image_mode: Literal["RGB"] = "RGB"
    offset: Offset = Offset(top=0)


class Amplified(Section):
    """`eq_params`: words and the factors on their attention."""

    words: Annotated[list[str], BeforeValidator(_words)]
    values: list[float]


class P2PConfig(Section):
    """Attention control of one edit."""

    cross_replace_steps: Annotated[dict[str, tuple[float, float]], BeforeValidator(_windows)]
    self_replace_steps: Window
    is_replace_controller: bool = True
    eq_params: Amplified | None = None
    blend_words: Annotated[list[list[str]] | None, BeforeValidator(_word_lists)] = None
    blend_self_attention: bool | None = None
    blend_latents: bool | None = None
    blend_th: Annotated[list[float], BeforeValidator(_threshold)] = [0.3, 0.3]
    negative_prompt: str | None = None
    eta: Annotated[float, BeforeValidator(_no_noise)] = 0.0


class EditingConfig(Section):
    """Prompts and settings of the edits."""

    editing_prompts: list[str] = Field(min_length=1)
    use_invertion_latents: Literal[True]
    use_inversion_attention: bool = True
    guidance_scale: float = 7.0
    num_inference_steps: int = Field(default=20, ge=1, le=999)
    prompt2prompt_edit: bool = False
    p2p_config: Annotated[dict[int, P2PConfig] | None, BeforeValidator(_by_index)] = None
    source_prompt: str | None = None
    use_make_grid: bool = True


class ModelConfig(Section):
    """Settings that make a video model of a 2-D model."""

    key_frames: Annotated[list[int | str], BeforeValidator(_key_frames)] = Field(
        default=[-1, "first"], alias="SparseCausalAttention_index"
    )
    least_sc_channel: int = Field(default=0, ge=0, le=4096)
    temporal_downsample: Annotated[None, BeforeValidator(_no_fewer_frames)] = None
    temporal_downsample_time: Annotated[None, BeforeValidator(_no_fewer_frames)] = None


class PipelineConfig(Section):
    """Choice between the authors' editing programs."""

    target: Pipeline | None = None


class Config(Section):
    """Contents of a whole file."""

    pretrained_model_path: str
    dataset_config: DatasetConfig
    editing_config: EditingConfig
    inflation: ModelConfig | None = Field(default=None, alias="model_config")
    test_pipeline_config: PipelineConfig | None = None
    disk_store: bool = False


def checked(document: Mapping[str, Any]) -> Config:
    """Return the config in a parsed file; raises ConfigError naming every key with a wrong value."""
    return validated(Config, document)


def validated(section: type[AnySection], document: Mapping[str, Any]) -> AnySection:
    """Return a section of a parsed file; raises ConfigError naming every key with a wrong value."""
    try:
        return section.model_validate(dict(document))
    except ValidationError as error:
        lines = [_described(entry) for entry in error.errors()]
        raise ConfigError("\n".join(lines if len(lines) == 1 else [f"{len(lines)} wrong values:", *lines])) from error


def _described(error: Mapping[str, Any]) -> str:
    path = dotted(tuple(part for part in error["loc"] if part != "[key]"))
    what = _needed(error)
    if error["type"] == "missing":
        return f"{path} is missing; it is needed. Add it."
    value = error["input"]
    shown = "empty" if isinstance(value, NoneType) else repr(value) if len(repr(value)) < 100 else type(value).__name__
    return f"{path} is {shown}; needed is {what}. Correct it."


def _needed(error: Mapping[str, Any]) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "needed":
            return context["needed"]
        case "greater_than_equal":
            return f"{context['ge']} or more"
        case "greater_than":
            return f"more than {context['gt']:g}"
        case "less_than_equal":
            return f"{context['le']} or less"
        case "multiple_of":
            return f"a multiple of {context['multiple_of']:g}"
        case "literal_error":
            return f"{context['expected']}, which is all that is offered here"
        case "too_short":
            return "at least one entry"
    return NEEDED.get(error["type"], error["msg"])
