"""Train the UNet together with the text encoder, on a pool of latents; stop and go on at any checkpoint, exactly."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers.models import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from .averaging import WeightAverage
from .checkpoint import Progress, check_checkpoint, read_checkpoint
from .denoiser import LOCALISED_LEVELS as LEVELS
from .denoiser import Batch, build_scheduler, build_text_encoder, build_unet, draw_batch, total_loss
from .localisation import record_cross_attention
from .parallel import average_gradients, launch, wait_for_all
from .pool import load_pool
from .sizes import SMALL
from .starting import copy_weights

CHECKPOINT = "denoiser.pt"
CURVE = "curve.jsonl"
"""One line of figures every `REPORT_EVERY` steps and one for every test of the unfinished model."""
REPORT_EVERY = 50
STYLED_SHARES = (0.2, 0.36)
"""Share of styled scenes in the first and in the second part of a run: plain ones bind the words sooner."""
STYLES_FROM = 0.4


@dataclass(frozen=True)
class DenoiserTraining:
    """Settings of the UNet's and text encoder's training.

    steps:        of the whole run; the rate falls over the last `decay_share` of them
    stop_at:      stop at this step for now, to go on later; None goes to the end
    batch:        samples per step over all workers
    localisation: weight of the attention loss
    channels:     of the UNet, the finest level first
    device:       "cpu" or "cuda"
    bfloat16:     compute in bfloat16 where autocast does; weights stay float32
    probe_every:  steps between tests of the averaged weights; 0 for none
    start:        folder of a finished model of the same sizes to go on from; None begins with fresh weights
    attention_alone: train the UNet's attention blocks and the text encoder; the other weights stay those of `start`
    """

    steps: int
    rate: float = 1e-3
    batch: int = 24
    seed: int = 0
    warmup: int = 200
    decay_share: float = 0.3
    average_decay: float = 0.999
    localisation: float = 0.03
    checkpoint_every: int = 250
    stop_at: int | None = None
    channels: tuple[int, int, int, int] = SMALL.unet
    device: str = "cpu"
    bfloat16: bool = False
    probe_every: int = 0
    start: Path | None = None
    attention_alone: bool = False


Probe = Callable[[UNet2DConditionModel, CLIPTextModel, int], Mapping[str, float]]
"""Test of an unfinished model: from the UNet, the text encoder and their steps to figures by name."""


def train_denoiser(
    folder: Path,
    pools: list[Path],
    training: DenoiserTraining,
    workers: int,
    report: Callable[[str], None],
    *,
    probe: Probe | None = None,
) -> None:
    """Run up to `training.steps`, from the checkpoint in `folder` if there is one.

    folder: holds the tokenizer; receives the checkpoint and the learning curve
    probe:  tests the averaged weights every `training.probe_every` steps; a module-level function
    Raises what `check_checkpoint` does.
    """
    if (folder / CHECKPOINT).exists():
        parts = _built(training, CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True), "meta")
        check_checkpoint(folder / CHECKPOINT, [each for part in parts for each in part.parameters()], training.steps)
    launch(_train, workers, folder, pools, training, report, probe)


def learning_rate(step: int, training: DenoiserTraining) -> float:
    """Return a step's rate: warm-up, constant, then linear to almost nothing: the end can be chosen while running."""
    left = (training.steps - step) / (training.decay_share * training.steps)
    return training.rate * min(1.0, (step + 1) / training.warmup, max(left, 0.01))


def averaged_models(
    folder: Path, tokenizer: CLIPTokenizer, channels: tuple[int, int, int, int] = SMALL.unet
) -> tuple[UNet2DConditionModel, CLIPTextModel, int]:
    """Load the averaged weights of a checkpoint, and the number of their steps; raise what `read_checkpoint` does."""
    unet, text_encoder = build_unet(channels), build_text_encoder(tokenizer)
    parameters: list[Tensor] = [*unet.parameters(), *text_encoder.parameters()]
    state = read_checkpoint(folder / CHECKPOINT, parameters, map_location="cpu")
    with torch.no_grad():
        torch._foreach_copy_(parameters, state["average"])
    return unet.eval(), text_encoder.eval(), state["step"]


class _Run:
    """State that a training step changes."""

    def __init__(self, folder: Path, training: DenoiserTraining) -> None:
        torch.manual_seed(training.seed)
        self.training = training
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        self.unet, self.text_encoder = _built(training, self.tokenizer, training.device)
        if training.start is not None:
            copy_weights(training.start, self.unet, self.text_encoder, self.tokenizer)
        self.maps: dict[str, Tensor] = {}
        record_cross_attention(self.unet, self.maps, LEVELS)
        self.parameters: list[Tensor] = [*self.unet.parameters(), *self.text_encoder.parameters()]
        # Gradients of what stays are made and dropped: the backward pass that leaves them out is no faster, and crashes
        # where torch 2.13 runs it beside recorded attention on a CPU.
        alone = training.attention_alone
        self.staying = [p for name, p in self.unet.named_parameters() if alone and "attentions" not in name]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=training.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.average = WeightAverage(self.parameters, training.average_decay)
        self.empty = torch.tensor(self.tokenizer("", padding="max_length").input_ids)
        self.progress = Progress(folder / CHECKPOINT, self.parameters, self.average, self.optimizer)
        self.step = self.progress.restore()

    def advance(self, batch: Batch, alphas: Tensor) -> tuple[Tensor, Tensor]:
        """Do one step. Returns this process's loss and stray attention."""
        training = self.training
        self.optimizer.param_groups[0]["lr"] = learning_rate(self.step, training)
        with torch.autocast(training.device, torch.bfloat16, enabled=training.bfloat16):
            loss, stray = total_loss(self.unet, self.text_encoder, self.maps, batch, alphas, training.localisation)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.parameters)
        for weight in self.staying:
            weight.grad = None
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.average.update(self.parameters, self.step)
        self.step += 1
        return loss.detach(), stray.detach()

    def averaged(self) -> tuple[UNet2DConditionModel, CLIPTextModel]:
        """Return models with the averaged weights, for tests."""
        unet, text_encoder = _built(self.training, self.tokenizer, self.training.device)
        self.average.copy_to([p.data for p in (*unet.parameters(), *text_encoder.parameters())])
        return unet.eval(), text_encoder.eval()


def _built(
    training: DenoiserTraining, tokenizer: CLIPTokenizer, device: str
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Build an untrained UNet and text encoder; on "meta" they have shapes alone."""
    unet, text_encoder = build_unet(training.channels), build_text_encoder(tokenizer)
    for part in (unet, text_encoder):
        nn.Module.to(part, device)
    return unet, text_encoder


def _train(
    rank: int,
    workers: int,
    folder: Path,
    pools: list[Path],
    training: DenoiserTraining,
    report: Callable[[str], None],
    probe: Probe | None,
) -> None:
    run, pool = _Run(folder, training), load_pool(*pools)
    alphas = build_scheduler().alphas_cumprod
    sums, since = torch.zeros(2, device=training.device), time.perf_counter()
    end = training.steps if training.stop_at is None else training.stop_at
    while run.step < end:
        styled = STYLED_SHARES[run.step >= STYLES_FROM * training.steps]
        batch = draw_batch(
            pool, alphas, run.empty, size=training.batch, seed=training.seed, step=run.step, styled=styled
        )
        batch = _part(batch, rank, workers, training.device)
        sums += torch.stack(run.advance(batch, alphas.to(training.device)))
        if run.step % REPORT_EVERY == 0 and rank == 0:
            speed = REPORT_EVERY * training.batch / (time.perf_counter() - since)
            loss, stray = (sums / REPORT_EVERY).tolist()
            report(f"step {run.step}/{training.steps} loss {loss:.4f} stray {stray:.3f} {speed:.1f} samples/s")
            _note(folder, {"step": run.step, "loss": loss, "stray": stray, "samples_per_second": speed})
            sums, since = torch.zeros_like(sums), time.perf_counter()
        if run.step % training.checkpoint_every == 0 or run.step == end:
            if rank == 0:
                run.progress.save(run.step)
            wait_for_all()
        if rank == 0 and probe and training.probe_every and run.step % training.probe_every == 0:
            figures = probe(*run.averaged(), run.step)
            report(
                f"step {run.step} drawn right: " + ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
            )
            _note(folder, {"step": run.step, **figures})


def _note(folder: Path, figures: Mapping[str, float]) -> None:
    """Add a line to the learning curve."""
    with (folder / CURVE).open("a") as file:
        file.write(json.dumps({name: round(value, 4) for name, value in figures.items()}) + "\n")


def _part(batch: Batch, rank: int, workers: int, device: str) -> Batch:
    """Return this process's share: every `workers`-th sample, so that each sees all noise levels."""
    return replace(batch, **{name: values[rank::workers].to(device) for name, values in vars(batch).items()})
