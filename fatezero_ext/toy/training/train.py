"""Train the toy model from nothing: `python -m fatezero_ext.toy.training.train --output DIR`.

Every stage leaves its result in the work folder and is skipped when it is there, so that a stopped run goes on where it
was. The defaults are what the shipped model was trained with.
"""

import argparse
import sys
from pathlib import Path

from diffusers.models import AutoencoderKL
from transformers import CLIPTokenizer

from .. import MODEL_FOLDER
from .autoencoder import AutoencoderTraining, train_autoencoder
from .diffusion_training import DenoiserTraining, averaged_models, train_denoiser
from .export import save_model
from .parallel import launch
from .pool import build_pool, save_pool
from .tokenizer import build_tokenizer

STAGES = ("vae", "pool", "denoiser", "decoder", "export")
VAE_STEPS, VAE_RATE = 8_500, 2e-3
DECODER_STEPS, DECODER_RATE = 4_000, 1e-3
DENOISER_STEPS = 13_000
SCENES = 48_000
WORKERS = (1, 2, 4, 8)
"""Numbers of workers that share every batch evenly: 8 frames for the VAE, 24 for the UNet."""


def main(arguments: list[str] | None = None) -> None:
    """Run the requested stages."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.output.exists() and any(options.output.iterdir()) and not (options.output / "model_index.json").exists():
        parser.error(f"--output {options.output} holds other files; it is replaced by the model. Name a new folder.")
    options.work.mkdir(parents=True, exist_ok=True)
    stages = STAGES if options.stage == "all" else (options.stage,)
    for stage in stages:
        _STAGES[stage](options)


def _vae(options: argparse.Namespace) -> None:
    if not (options.work / "vae").exists():
        training = AutoencoderTraining(options.vae_steps, VAE_RATE, seed=options.seed)
        train_autoencoder(options.work / "vae", training, options.workers, _report)


def _decoder(options: argparse.Namespace) -> None:
    if not (options.work / "vae_final").exists():
        training = AutoencoderTraining(
            options.decoder_steps, DECODER_RATE, seed=options.seed, start=options.work / "vae"
        )
        train_autoencoder(options.work / "vae_final", training, options.workers, _report)


def _pool(options: argparse.Namespace) -> None:
    build_tokenizer(options.work / "tokenizer")
    if not all(path.exists() for path in _pool_paths(options)):
        launch(_draw_pool, options.workers, options)


def _draw_pool(rank: int, workers: int, options: argparse.Namespace) -> None:
    vae = AutoencoderKL.from_pretrained(options.work / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(options.work / "tokenizer")
    share = range(options.scenes * rank // workers, options.scenes * (rank + 1) // workers)
    save_pool(build_pool(vae, tokenizer, options.seed, share), _pool_paths(options)[rank])


def _pool_paths(options: argparse.Namespace) -> list[Path]:
    return [options.work / f"pool{rank}of{options.workers}.pt" for rank in range(options.workers)]


def _denoiser(options: argparse.Namespace) -> None:
    training = DenoiserTraining(options.steps, seed=options.seed)
    train_denoiser(options.work, _pool_paths(options), training, options.workers, _report)


def _export(options: argparse.Namespace) -> None:
    final = options.work / "vae_final"
    vae = AutoencoderKL.from_pretrained(final if final.exists() else options.work / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(options.work / "tokenizer")
    unet, text_encoder, steps = averaged_models(options.work, tokenizer)
    save_model(options.output, unet=unet, text_encoder=text_encoder, vae=vae, tokenizer=tokenizer)
    _report(f"saved {options.output} after {steps} steps")


_STAGES = {"vae": _vae, "pool": _pool, "denoiser": _denoiser, "decoder": _decoder, "export": _export}


def _report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fatezero_ext.toy.training.train", description=__doc__)
    parser.add_argument("--output", type=Path, default=MODEL_FOLDER, help="folder of the finished model")
    parser.add_argument("--work", type=Path, default=Path("output/toy-training"), help="folder of intermediate results")
    parser.add_argument("--stage", choices=("all", *STAGES), default="all", help="run one stage alone")
    parser.add_argument("--steps", type=int, default=DENOISER_STEPS, help="UNet steps")
    parser.add_argument("--vae-steps", type=int, default=VAE_STEPS, help="VAE steps, encoder and decoder")
    parser.add_argument("--decoder-steps", type=int, default=DECODER_STEPS, help="further steps of the decoder alone")
    parser.add_argument("--scenes", type=int, default=SCENES, help="scenes that the UNet is trained on")
    parser.add_argument("--workers", type=int, choices=WORKERS, default=2, help="processes, best one per core")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
