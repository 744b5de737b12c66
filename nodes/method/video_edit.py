"""VideoEdit: a clip, what is in it, and what it should be; all else is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...fatezero_ext.editing.settings import EditKind, EditSettings
from ...fatezero_ext.errors import ModelError, PromptError
from ...fatezero_ext.prompts.words_alone import read_words
from .. import host
from ..api import io, schema
from ..checking.graph_texts import WHOLE_EDIT_NODE, inputs_of, link_of, texts_of, with_places
from ..checking.verdicts import FirstMistakes, graph_now, verdict
from ..clips.framing_inputs import USUAL_FPS
from ..clips.given_clip import clip_mistakes, given_clip
from ..first_use import importing
from .control import KEY_FRAMES, controlled_model
from .edit_checks import edit_mistakes
from .single_links import check_single
from .video_edit_choices import Asked, choose, facts_of
from .video_edit_graph import edit_graph
from .video_edit_inputs import link_inputs, rare_inputs, word_inputs

if TYPE_CHECKING:
    from ...fatezero_ext.prompts.prompt import TextEncoder

EMPTY_SOURCE = "source_prompt is empty; words are needed. Describe in plain words what is in the clip."
LINKED = ("model", "clip", "vae", "video", "images")


class VideoEdit(io.ComfyNode):
    """Edit a video by words: say what is in the clip and what it should be. Motion and all that the words do not touch
    stay. Everything else is chosen for you, and told on the node."""

    TAKES_FILE_FRAMES = TAKES_STREAMED_FRAMES = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=WHOLE_EDIT_NODE,
            display_name="Video Edit (FateZero vid2vid, prompt to prompt)",
            category="FateZero",
            description=cls.__doc__,
            search_aliases=["video edit", "edit video", "prompt to prompt", "inversion", "vid2vid", "edit by words"],
            inputs=[*link_inputs(), *word_inputs(), *rare_inputs()],
            outputs=[
                io.Video.Output(tooltip="The edited clip with the source's sound, for Save Video."),
                io.Image.Output(tooltip="The edited frames."),
                io.Mask.Output(tooltip="Where the edit was free to differ, black or white. White for a style."),
                io.Image.Output(
                    display_name="comparison", tooltip="The source beside the edit, one picture per frame."
                ),
            ],
            hidden=[io.Hidden.dynprompt, io.Hidden.unique_id],
            enable_expand=True,
        )

    @classmethod
    def validate_inputs(
        cls,
        source_prompt: str | None = None,
        edit_prompt: str | None = None,
        kind: EditKind | None = None,
        video: None = None,
        images: None = None,
    ) -> bool | str:
        """Check prompts and links before anything runs; what is linked is None here and is checked when it runs."""
        graph = graph_now()
        inputs = inputs_of(graph, getattr(cls.hidden, "unique_id", None), WHOLE_EDIT_NODE)
        asked = {"source_prompt": source_prompt, "edit_prompt": edit_prompt} if inputs is None else inputs
        sources, edits = (texts_of(graph, asked.get(name)) or () for name in ("source_prompt", "edit_prompt"))
        mistakes = _word_mistakes(kind, sources[0] if len(sources) == 1 else None, edits)
        return verdict({**clip_mistakes(inputs, graph), **with_places(mistakes, graph, inputs)})

    @classmethod
    def execute(
        cls,
        model: Any,  # noqa: ANN401 - a NoiseModel, or ComfyUI's ModelPatcher
        clip: TextEncoder,
        vae: Any,  # noqa: ANN401 - any object with ComfyUI's VAE methods
        source_prompt: str,
        edit_prompt: str,
        kind: EditKind,
        strength: float,
        video: Any = None,  # noqa: ANN401 - the program's own kind of video
        images: Any = None,  # noqa: ANN401 - frames, or those of a file
        fps: float = USUAL_FPS,
        **asked: int,
    ) -> io.NodeOutput:
        with importing():
            from ...fatezero_ext.editing.automatic import resolved_settings

        if mistakes := _word_mistakes(kind, source_prompt, [edit_prompt]):
            raise PromptError("\n".join(mistakes.values()))
        given, widgets, prompts = given_clip(images, video, fps), Asked(**asked), (source_prompt, edit_prompt)
        _check_model(model)
        unet = controlled_model(model, KEY_FRAMES)
        _check_parts(clip, vae, prompts)
        check_single(cls.hidden, dict(zip(LINKED, (model, clip, vae, video, images), strict=True)))
        settings = resolved_settings(
            EditSettings(kind=kind, strength=strength),
            *prompts,
            built_in=unet.built_in,
            draws_objects=bool(unet.objects),
        )
        choices = choose(unet, facts_of(given, widgets), widgets, settings, prompts)
        host.tell(choices.remarks, choices.lines, cls.hidden.unique_id)
        words = {"source_prompt": source_prompt, "edit_prompt": edit_prompt, "kind": kind, "strength": strength}
        return edit_graph(_own_links(cls.hidden), words, fps, choices)


def _own_links(hidden: Any) -> dict[str, Any]:  # noqa: ANN401 - ComfyUI's HiddenHolder
    """Return what the node's sockets are linked to: the nodes in its place read, and are cached by, the same."""
    inputs = hidden.dynprompt.get_node(hidden.unique_id)["inputs"]
    return {name: inputs[name] for name in LINKED if link_of(inputs.get(name)) is not None}


def _word_mistakes(kind: EditKind | None, source: str | None, edits: Sequence[str]) -> Mapping[str, str]:
    """Return the mistakes of prompts and kind by widget; kind, source: None where they are not known."""
    if source is not None and not source.split():
        return {"source_prompt": EMPTY_SOURCE}
    mistakes = FirstMistakes()
    if source is not None:
        mistakes.check("source_prompt", read_words, source, "source prompt")
    if kind is not None:  # no list of values is checked where an input is named in validate_inputs
        mistakes.check("kind", lambda: EditSettings(kind=kind))
    return dict(mistakes) or edit_mistakes({"kind": kind}, edits, source)


def _check_model(model: object) -> None:
    if model is None:
        raise ModelError(
            "nothing is connected to model, or the loaded file contains none; a MODEL or a UNet is needed. Choose a "
            "whole checkpoint of Stable Diffusion 1.x or 2.x."
        )


def _check_parts(clip: TextEncoder, vae: object, prompts: tuple[str, str]) -> None:
    """Raise ModelError without a VAE, PromptError for prompts that the text encoder cannot read."""
    with importing():
        from ...fatezero_ext.prompts.prompt import read_prompt

    if vae is None:
        raise ModelError(
            "nothing is connected to vae, or the loaded file contains no VAE; one of the same model is needed. Use "
            "Load VAE, or a whole checkpoint."
        )
    for text, name in zip(prompts, ("source prompt", "edit prompt"), strict=True):
        read_prompt(clip, text, name)
