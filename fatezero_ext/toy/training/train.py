"""Train the toy model from nothing: `python -m fatezero_ext.toy.training.train --output DIR`.

Every stage leaves its result in the work folder and is skipped when it is there, and goes on from its last checkpoint
when it is not complete, so that a stopped run goes on where it was. `recipe.json` there says what the results were made
with: other options are refused, but for the UNet's steps, the device and the number of processes. With `--objects 0`
the defaults are what the built-in toy model was trained with.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from diffusers.models import AutoencoderKL
from transformers import CLIPTokenizer

from ...errors import FateZeroError, SettingsError
from ...untrusted.plain_files import read_json
from ..evaluation.progress import draw_and_read
from ..world.world import OBJECTS
from . import recipe
from .autoencoder import GROUPS, AutoencoderTraining, train_autoencoder
from .diffusion_training import CHECKPOINT, DenoiserTraining, averaged_models, train_denoiser
from .export import save_model
from .parallel import launch
from .pool import build_pool, save_pool
from .sizes import LARGE, SMALL, Sizes
from .starting import check_start, sizes_of
from .tokenizer import build_tokenizer

STAGES = ("vae", "pool", "denoiser", "decoder", "export")
VAE_STEPS, VAE_RATE, GOING_ON_RATE = 8_500, 2e-3, 1e-3
DECODER_STEPS, DECODER_RATE = 4_000, 1e-3
DENOISER_STEPS = 13_000
SCENES = 48_000
WORKERS = (1, 2, 4, 8)
"""Numbers of workers that share every batch evenly."""
VAE_BATCH, BATCH = 8, 24


def main(arguments: list[str] | None = None) -> None:
    """Run the requested stages."""
    parser = _parser()
    options = parser.parse_args(arguments)
    _check(parser, options)
    stages = STAGES if options.stage == "all" else (options.stage,)
    try:
        _check_work(options, stages)
        recipe.check(options.work, stages, options)
        for stage in stages:
            recipe.follow(options.work, stage, options)
            _STAGES[stage](options)
    except FateZeroError as error:
        parser.error(str(error))


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse options that cannot work before any of the long work."""
    output = options.output
    if output.exists() and not (output / "model_index.json").exists() and (output.is_file() or any(output.iterdir())):
        parser.error(f"--output {output} is a file, or holds others; the model replaces it. Name a new folder.")
    if options.work.exists() and not options.work.is_dir():
        parser.error(f"--work {options.work} is a file; a folder is needed for what the stages leave. Name a folder.")
    if not 0 <= options.objects <= len(OBJECTS):
        parser.error(f"--objects {options.objects}; the world has {len(OBJECTS)}. Give a number from 0 to that.")
    if options.start is not None and not (options.start / "model_index.json").exists():
        parser.error(f"--start {options.start}; it has no model_index.json. Give the folder of a finished model.")
    if options.attention_alone and options.start is None:
        parser.error("--attention-alone; the other weights stay as they are, and there are none. Give --start too.")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda; torch finds no GPU here. Install torch for your GPU, or leave --device out.")
    if options.device == "cuda" and options.workers != 1:
        parser.error(f"--device cuda with {options.workers} workers; a GPU takes one. Give --workers 1.")
    if any(channels < 1 or channels % GROUPS for channels in options.vae_channels or ()):
        parser.error(
            f"--vae-channels {_listed(options.vae_channels)}; norms take them in groups. Give multiples of {GROUPS}."
        )
    for name in ("vae_batch", "batch"):
        if getattr(options, name) < 1 or getattr(options, name) % options.workers:
            parser.error(
                f"--{name.replace('_', '-')} {getattr(options, name)}; {options.workers} workers share it evenly. "
                f"Give a multiple of {options.workers}."
            )


def _check_work(options: argparse.Namespace, stages: Sequence[str]) -> None:
    """Refuse a work folder that lacks what the stages read, or whose VAE has other sizes than these options give.

    Likewise a model to start from that lacks a part.
    """
    work = options.work
    results = {
        "vae": [work / "vae"],
        "pool": [*_pool_paths(options), work / "tokenizer"],
        "denoiser": [work / CHECKPOINT],
    }
    for needed in recipe.NEEDS[stages[0]]:
        if missing := [path for path in results[needed] if not path.exists()]:
            raise SettingsError(
                f"--stage {stages[0]} reads {missing[0]}, which is not there. Run --stage {needed} first, with the "
                f"same options."
            )
    vae, wanted = work / "vae" / "config.json", _sizes(options).vae
    found = read_json(vae).get("block_out_channels") if vae.exists() else None
    if found is not None and found != list(wanted):
        raise SettingsError(
            f"{vae.parent} has {found} channels; these options make one of {list(wanted)}. Give the options it was "
            f"made with, or another --work folder."
        )
    if options.start is not None:
        check_start(options.start, objects=options.objects > 0)
        _check_widening(options)


def _check_widening(options: argparse.Namespace) -> None:
    """Refuse channels that a VAE of the model to start from cannot be widened to."""
    narrow = sizes_of(options.start, SMALL.rate).vae
    factors = {wide / few for wide, few in zip(_sizes(options).vae, narrow, strict=True)}
    if len(factors) > 1 or not min(factors).is_integer():
        raise SettingsError(
            f"--vae-channels {_listed(options.vae_channels)}; the VAE in {options.start} has {_listed(narrow)}, and "
            f"copies of its channels make a wider one. Give a whole multiple, the same for each level, such as "
            f"{_listed(2 * few for few in narrow)}."
        )


def _listed(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))


def _sizes(options: argparse.Namespace) -> Sizes:
    usual = LARGE if options.objects else SMALL
    sizes = usual if options.start is None else sizes_of(options.start, SMALL.rate)
    return replace(sizes, vae=tuple(options.vae_channels)) if options.vae_channels else sizes


def _vae(options: argparse.Namespace) -> None:
    if not (options.work / "vae").exists():
        start = None if options.start is None else options.start / "vae"
        rate = VAE_RATE if start is None else GOING_ON_RATE
        training = _autoencoder_training(options, options.vae_steps, rate, start)
        train_autoencoder(options.work / "vae", training, options.workers, _report)


def _decoder(options: argparse.Namespace) -> None:
    if not (options.work / "vae_final").exists():
        start = options.work / "vae"
        training = _autoencoder_training(options, options.decoder_steps, DECODER_RATE, start, decoder_alone=True)
        train_autoencoder(options.work / "vae_final", training, options.workers, _report)


def _autoencoder_training(
    options: argparse.Namespace, steps: int, rate: float, start: Path | None, *, decoder_alone: bool = False
) -> AutoencoderTraining:
    return AutoencoderTraining(
        steps,
        rate,
        batch=options.vae_batch,
        seed=options.seed,
        start=start,
        decoder_alone=decoder_alone,
        channels=_sizes(options).vae,
        objects=OBJECTS if options.objects else (),  # all of them: a VAE then serves worlds of any number
        device=options.device,
        bfloat16=options.bfloat16,
        loaders=options.loaders,
    )


def _pool(options: argparse.Namespace) -> None:
    build_tokenizer(options.work / "tokenizer", objects=options.objects > 0)
    if not all(path.exists() for path in _pool_paths(options)):
        launch(_draw_pool, _drawers(options), options)


def _draw_pool(rank: int, workers: int, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    path = _pool_paths(options)[rank]
    if path.exists():
        return
    vae = AutoencoderKL.from_pretrained(options.work / "vae", local_files_only=True)
    tokenizer = CLIPTokenizer.from_pretrained(options.work / "tokenizer", local_files_only=True)
    share = range(options.scenes * rank // workers, options.scenes * (rank + 1) // workers)
    save_pool(build_pool(vae, tokenizer, options.seed, share, OBJECTS[: options.objects]), path)


def _drawers(options: argparse.Namespace) -> int:
    """Return the number of processes that draw scenes ahead; on a GPU machine the CPU has nothing else to do."""
    return max(options.workers, options.loaders)


def _pool_paths(options: argparse.Namespace) -> list[Path]:
    count, world = _drawers(options), f"_{options.objects}objects" if options.objects else ""
    return [options.work / f"pool{world}{rank}of{count}.pt" for rank in range(count)]


def _denoiser(options: argparse.Namespace) -> None:
    sizes = _sizes(options)
    training = DenoiserTraining(
        options.steps,
        options.rate or sizes.rate,
        batch=options.batch,
        seed=options.seed,
        channels=sizes.unet,
        device=options.device,
        bfloat16=options.bfloat16,
        probe_every=options.probe_every,
        start=options.start,
        attention_alone=options.attention_alone,
    )
    probe = partial(draw_and_read, options.work, OBJECTS[: options.objects])
    train_denoiser(options.work, _pool_paths(options), training, options.workers, _report, probe=probe)


def _export(options: argparse.Namespace) -> None:
    final = options.work / "vae_final"
    vae = AutoencoderKL.from_pretrained(final if final.exists() else options.work / "vae", local_files_only=True)
    tokenizer = CLIPTokenizer.from_pretrained(options.work / "tokenizer", local_files_only=True)
    unet, text_encoder, steps = averaged_models(options.work, tokenizer, _sizes(options).unet)
    objects = OBJECTS[: options.objects]
    save_model(options.output, unet=unet, text_encoder=text_encoder, vae=vae, tokenizer=tokenizer, objects=objects)
    _report(f"saved {options.output} after {steps} steps")


_STAGES = {"vae": _vae, "pool": _pool, "denoiser": _denoiser, "decoder": _decoder, "export": _export}


def _report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fatezero_ext.toy.training.train", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--work", type=Path, default=Path("output/toy-training"), help="folder of intermediate results")
    parser.add_argument("--stage", choices=("all", *STAGES), default="all", help="run one stage alone")
    parser.add_argument(
        "--objects", type=int, default=len(OBJECTS), help="objects beside the coloured shapes; 0: the small model"
    )
    parser.add_argument("--steps", type=int, default=DENOISER_STEPS, help="UNet steps")
    parser.add_argument("--vae-steps", type=int, default=VAE_STEPS, help="VAE steps, encoder and decoder")
    parser.add_argument("--decoder-steps", type=int, default=DECODER_STEPS, help="further steps of the decoder alone")
    parser.add_argument("--scenes", type=int, default=SCENES, help="scenes that the UNet is trained on")
    parser.add_argument("--batch", type=int, default=BATCH, help="samples of a UNet step")
    parser.add_argument("--vae-batch", type=int, default=VAE_BATCH, help="frames of a VAE step")
    parser.add_argument("--rate", type=float, default=0.0, help="learning rate of the UNet; 0: the recipe's")
    parser.add_argument("--probe-every", type=int, default=1000, help="UNet steps between tests by the oracle; 0: none")
    parser.add_argument("--workers", type=int, choices=WORKERS, default=2, help="processes, best one per core")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: also give --workers 1")
    parser.add_argument("--bfloat16", action="store_true", help="bfloat16 autocast, for a GPU")
    parser.add_argument(
        "--loaders", type=int, default=0, help=f"with a GPU: processes that draw scenes, here {os.cpu_count()} at most"
    )
    parser.add_argument("--start", type=Path, help="folder of a finished model to go on from; its sizes hold")
    parser.add_argument(
        "--attention-alone",
        action="store_true",
        help="with --start: of the UNet train the attention blocks alone, besides the text encoder",
    )
    parser.add_argument(
        "--vae-channels",
        type=int,
        nargs=3,
        metavar="N",
        help="of the VAE, the finest level first; with --start a multiple of that model's, whose VAE is widened",
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
