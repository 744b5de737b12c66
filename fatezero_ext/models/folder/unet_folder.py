"""UNets in a folder: 2-D ones of diffusers, and those tuned on a clip."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...untrusted.plain_files import read_json
from ..single_file.checkpoint import SD2_TEXT_WIDTH, Prediction, prediction_by_spread
from ..unet.inflate import InflationSettings
from ..unet.model import Pseudo3DUNet
from .configs import unet_config
from .detect import ToyMark
from .empty_modules import empty, fill_exactly
from .tuned_unet import our_names, temporal_layers, tuned_kind, two_dimensional
from .weights import UNET_AND_VAE, folder_weights, present

if TYPE_CHECKING:
    from diffusers.models import UNet2DConditionModel

LAST_NORM = re.compile(r"up_blocks\.(\d{1,3})\.attentions\.(\d{1,3})\.transformer_blocks\.0\.norm1\.bias")

Completed = Callable[..., Pseudo3DUNet]
"""Makes the UNet of a net and its inflation, with `built_in` and `objects` where the folder says so."""


class UNetFolder:
    """A folder with a UNet's config and weights; the weights are read on demand."""

    def __init__(self, folder: str | Path) -> None:
        """Raises ModelError for missing files, for foreign keys, and for pickles of more than tensors."""
        self.path = present(Path(folder))
        self._config_file = self.path / "config.json"
        config = read_json(self._config_file)
        self._tuned = tuned_kind(config, self._config_file)
        self._config = unet_config(two_dimensional(config) if self._tuned else config, self._config_file)
        self._file = folder_weights(self.path, UNET_AND_VAE)
        self._names = our_names(self._file.shapes, self._tuned, self.path)
        self._mark = ToyMark.read(self.path)

    def prediction(self) -> Prediction:
        """Guess what the UNet predicts: of Stable Diffusion 2.x from its last attention's norm, else noise."""
        norms = [(int(m[1]), int(m[2]), key) for name, key in self._names.items() if (m := LAST_NORM.fullmatch(name))]
        if self._config.get("cross_attention_dim") != SD2_TEXT_WIDTH or not norms:
            return "epsilon"
        key = max(norms)[2]
        return prediction_by_spread(self._file.read([key])[key])

    def unet(self, settings: InflationSettings, dtype: torch.dtype, completed: Completed) -> Pseudo3DUNet:
        """Read the weights and inflate them; a model of our own training is a built-in one, wherever it lies.

        Raises ModelError for keys that are missing or foreign.
        """
        if self._mark is not None:
            completed = partial(completed, built_in=True, objects=self._mark.objects)
        if not self._tuned:
            net = empty(self._net, self._config_file)
            return completed(fill_exactly(net, self._file, self._names, dtype), settings)
        temporal = temporal_layers(self._names, self._file.shapes, self._tuned, settings.temporal)
        unet = empty(lambda: completed(self._net(), replace(settings, temporal=temporal)), self._config_file)
        fill_exactly(unet.net, self._file, self._names, dtype)
        return unet

    def _net(self) -> UNet2DConditionModel:
        from diffusers.models import UNet2DConditionModel

        return UNet2DConditionModel(**self._config)
