"""The folder of a tuned model: diffusers' layout with the names of the authors' program."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..diffusion.preview_colours import FILE as COLOURS_FILE
from ..errors import StoreError
from ..models.folder.configs import UNET
from ..models.folder.detect import FATEZERO, TUNE_A_VIDEO, ToyMark
from ..models.folder.tuned_unet import TUNE_A_VIDEO_NAMES, our_names
from ..models.unet.model import Pseudo3DUNet
from ..models.unet.temporal import LowRankTemporalConv
from ..models.weight_files import WeightFile
from ..untrusted.plain_files import read_json
from .file_names import LESSONS_FILE, RECORD

WeightsFormat = Literal["safetensors", "bin"]
WEIGHTS = "diffusion_pytorch_model"
OTHER_PARTS = ("vae", "text_encoder", "tokenizer", "scheduler")
INDEX = "model_index.json"
UNET_IN_INDEX = {
    FATEZERO: ["video_diffusion.models.unet_3d_condition", FATEZERO],
    TUNE_A_VIDEO: ["tuneavideo.models.unet", TUNE_A_VIDEO],
}
"""The UNet's class in the index of a pipeline, as the programs write it."""
BLOCKS = {FATEZERO: "Pseudo3D", TUNE_A_VIDEO: "3D"}
MIDDLE = {FATEZERO: "UNetMidBlockPseudo3DCrossAttn", TUNE_A_VIDEO: "UNetMidBlock3DCrossAttn"}


@dataclass(frozen=True)
class TunedFolder:
    """Place and form in which a tuned model is saved.

    path:    of the folder; an older result there is replaced
    base:    folder of the model that was tuned, whose other parts are copied, so that the result is a whole pipeline;
             None: the folder has the UNet alone
    weights: "safetensors"; or "bin", a pickle, which is the one form that the authors' program reads
    """

    path: Path
    base: Path | None = None
    weights: WeightsFormat = "safetensors"

    @property
    def base_parts(self) -> list[Path]:
        """Folders and files that are copied."""
        if self.base is None:
            return []
        found = [self.base / name for name in (*OTHER_PARTS, COLOURS_FILE)]
        return [path for path in found if path.exists()]

    def nbytes(self, unet_bytes: int) -> int:
        """Bytes that the folder takes on disk; unet_bytes: those of the UNet's weights."""
        files = [file for part in self.base_parts for file in (part.rglob("*") if part.is_dir() else [part])]
        return unet_bytes + sum(file.stat().st_size for file in files if file.is_file())

    def save(
        self,
        unet: Pseudo3DUNet,
        masters: Mapping[str, Tensor],
        record: Mapping[str, object],
        lessons: Mapping[str, Tensor],
    ) -> None:
        """Write the folder whole, or leave what was there.

        masters: the trained weights in float32, whatever the UNet computes in
        record:  how it was made
        lessons: latents and texts that it was made from
        Raises StoreError where it cannot be written.
        """
        unfinished = self.path.with_name(f".{self.path.name}.partial")
        try:
            shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed while it wrote
            learnt = {name: x.detach().cpu().contiguous() for name, x in lessons.items()}
            save_file(learnt, _parent_made(unfinished / LESSONS_FILE))
            self._write(unfinished, unet, masters, record)
            _put(unfinished, self.path)
        except (OSError, SafetensorError, RuntimeError) as error:  # torch.save raises RuntimeError on a full disk
            shutil.rmtree(unfinished, ignore_errors=True)
            raise StoreError(
                f"{self.path} cannot be written ({error}); room for the whole model is needed. Free space on that disk "
                f"and resume: the run's state is saved, nothing is computed again."
            ) from error

    def _write(
        self, folder: Path, unet: Pseudo3DUNet, masters: Mapping[str, Tensor], record: Mapping[str, object]
    ) -> None:
        """Write everything into a folder that nobody knows yet; configs, by which models are found, come last."""
        kind = unet_class(unet)
        for part in self.base_parts:
            (shutil.copytree if part.is_dir() else shutil.copyfile)(part, _parent_made(folder / part.name))
        weights = {name: x.detach().cpu() for name, x in unet.net.state_dict().items()}
        weights |= {name: x.detach().cpu() for name, x in masters.items()}
        tensors = {their_name(name, kind): x.contiguous() for name, x in weights.items()}
        file = _parent_made(folder / "unet" / f"{WEIGHTS}.{self.weights}")
        if self.weights == "bin":
            torch.save(tensors, file)
        else:
            save_file(tensors, file, {"format": "pt"})
        if unet.built_in:
            ToyMark(unet.objects).save(folder / "unet")
        _write_json(folder / RECORD, record)
        _write_json(folder / "unet" / "config.json", unet_config(unet))
        if self.base is not None and (self.base / INDEX).exists():
            _write_json(folder / INDEX, {**read_json(self.base / INDEX), "unet": UNET_IN_INDEX[kind]})


def unet_class(unet: Pseudo3DUNet) -> str:
    """Return the class that a UNet's config names: Tune-A-Video's where there are no convolutions over time."""
    layers = unet.settings.temporal
    return TUNE_A_VIDEO if layers is not None and not layers.convolutions else FATEZERO


def unet_config(unet: Pseudo3DUNet) -> dict[str, object]:
    """Return the config of a UNet with layers over time, as the program of its class reads it."""
    kind, layers = unet_class(unet), unet.settings.temporal
    config = {key: unet.net.config[key] for key in UNET if unet.net.config.get(key) is not None}
    for key in ("down_block_types", "up_block_types"):
        config[key] = [name.replace("2D", BLOCKS[kind]) for name in unet.net.config[key]]
    config["mid_block_type"] = MIDDLE[kind]
    if kind == FATEZERO:
        if layers is not None and layers.rank is not None:
            config["lora"] = asked_rank(unet)
        config["SparseCausalAttention_index"] = list(unet.settings.key_frames)
        config["least_sc_channel"] = unet.settings.least_sc_channel
    return {"_class_name": kind, "_diffusers_version": "0.11.1", **config}


def asked_rank(unet: Pseudo3DUNet) -> int:
    """Return a rank of which their program makes the rank of each convolution: half the channels where it exceeds them.

    Where all are halves, that is any number above the most channels.
    """
    found = [module.down for module in unet.net.modules() if isinstance(module, LowRankTemporalConv)]
    if all(down.out_channels == down.in_channels // 2 for down in found):
        return max(down.in_channels for down in found) + 1
    return max(down.out_channels for down in found)


def saved_weights(folder: Path, masters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the trained weights from a result's folder, those of the same names and shapes as `masters`.

    Raises StoreError where they are not there.
    """
    files = [file for kind in get_args(WeightsFormat) if (file := folder / "unet" / f"{WEIGHTS}.{kind}").exists()]
    found = WeightFile(files[0]) if files else None
    names = our_names(found.shapes, FATEZERO, folder) if found else {}
    if found is None or any(found.shapes.get(names.get(name, "")) != x.shape for name, x in masters.items()):
        raise StoreError(f"{folder / 'unet'} lacks trained weights that its record names. Remove it to tune anew.")
    weights = found.read(names[name] for name in masters)
    return {name: weights[names[name]] for name in masters}


def their_name(name: str, kind: str) -> str:
    """Return the name of a weight in the program of a class."""
    if kind == TUNE_A_VIDEO:
        for theirs, ours in TUNE_A_VIDEO_NAMES.items():
            name = name.replace(ours, theirs)
    return name


def _put(new: Path, place: Path) -> None:
    """Put a folder in its place; the older one there goes once the new one has taken it."""
    older = place.with_name(f".{place.name}.older.partial")
    shutil.rmtree(older, ignore_errors=True)
    if place.exists():
        place.rename(older)
    try:
        new.rename(place)
    except OSError:
        if older.exists():
            older.rename(place)
        raise
    shutil.rmtree(older, ignore_errors=True)


def _parent_made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_json(path: Path, values: Mapping[str, object]) -> None:
    _parent_made(path).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
