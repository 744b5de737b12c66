"""The clip that a node is given: frames of an IMAGE, or a VIDEO."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ...fatezero_ext.errors import SettingsError, VideoError
from ...fatezero_ext.media.clip import FileFrames, VideoClip
from .. import host
from ..checking.graph_texts import Graph, inputs_of, link_of, shown_name

if TYPE_CHECKING:
    from torch import Tensor

NO_CLIP = "neither video nor images is connected; one clip is needed. Connect Load Video to video, or frames to images."
LOADER = "LoadVideo"
UNCHOSEN = "no clip is chosen in "
NOT_CHOSEN = UNCHOSEN + "{}; one is needed. Click 'choose file to upload' there, or the folder beside 'file'."
TWO_CLIPS = "both video and images are connected; one clip is needed. Take either link out."


def given_clip(images: Tensor | FileFrames | None, video: Any, fps: float) -> VideoClip:  # noqa: ANN401 - a VIDEO
    """Return the clip that is connected.

    fps: frames per second of `images`; a video brings its own, as it brings its sound
    Raises SettingsError unless one of both is connected, and for a rate that is none; VideoError where a file cannot be
    read, or for no frames at all.
    """
    if images is not None and video is not None:
        raise SettingsError(TWO_CLIPS)
    if video is not None:
        return host.current().clip(video)
    if images is None:
        raise SettingsError(NO_CLIP)
    if not 0 < fps < math.inf:
        raise SettingsError(f"fps is {fps}; a positive rate is needed. Check what is connected to fps.")
    if not isinstance(images, FileFrames) and not len(images):
        raise VideoError("images brings no frames; at least one is needed. Check what is connected to images.")
    return VideoClip(images, Fraction(fps), None)


def clip_mistakes(inputs: Mapping[str, Any] | None, graph: Graph) -> dict[str, str]:
    """Return the mistake by input of a node to which no clip or two are connected, or one that nobody has chosen.

    inputs: None if not known
    graph:  the one that is validated; {} if not known
    """
    if inputs is None:
        return {}
    connected = [inputs.get(name) is not None for name in ("images", "video")]
    if all(connected):
        return {"video": TWO_CLIPS}
    if not any(connected):
        return {"video": NO_CLIP}
    link = link_of(inputs.get("video"))
    chosen = None if link is None else inputs_of(graph, link, LOADER)
    if link is None or chosen is None or chosen.get("file") != "":
        return {}
    return {"video": NOT_CHOSEN.format(shown_name(graph, link, "Load Video"))}
