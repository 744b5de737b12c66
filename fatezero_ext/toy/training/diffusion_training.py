"""Train the UNet together with the text encoder, on a pool of latents; stop and go on at any checkpoint, exactly."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers.models import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .averaging import WeightAverage
from .denoiser import LOCALISED_LEVELS as LEVELS
from .denoiser import Batch, build_scheduler, build_text_encoder, build_unet, draw_batch, total_loss
from .localisation import record_cross_attention
from .parallel import average_gradients, launch, wait_for_all
from .pool import load_pool

CHECKPOINT = "denoiser.pt"
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


def train_denoiser(
    folder: Path, pools: list[Path], training: DenoiserTraining, workers: int, report: Callable[[str], None]
) -> None:
    """Run up to `training.steps`, from the checkpoint in `folder` if there is one.

    folder: holds the tokenizer; receives the checkpoint
    """
    launch(_train, workers, folder, pools, training, report)


def learning_rate(step: int, training: DenoiserTraining) -> float:
    """Return a step's rate: warm-up, constant, then linear to almost nothing: the end can be chosen while running."""
    left = (training.steps - step) / (training.decay_share * training.steps)
    return training.rate * min(1.0, (step + 1) / training.warmup, max(left, 0.01))


def averaged_models(folder: Path, tokenizer: CLIPTokenizer) -> tuple[UNet2DConditionModel, CLIPTextModel, int]:
    """Load the averaged weights of a checkpoint, and the number of their steps."""
    unet, text_encoder = build_unet(), build_text_encoder(tokenizer)
    state = torch.load(folder / CHECKPOINT, weights_only=True)
    with torch.no_grad():
        torch._foreach_copy_([*unet.parameters(), *text_encoder.parameters()], state["average"])
    return unet.eval(), text_encoder.eval(), state["step"]


class _Run:
    """State that a training step changes."""

    def __init__(self, folder: Path, training: DenoiserTraining) -> None:
        torch.manual_seed(training.seed)
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.unet, self.text_encoder = build_unet(), build_text_encoder(tokenizer)
        self.maps: dict[str, Tensor] = {}
        record_cross_attention(self.unet, self.maps, LEVELS)
        self.parameters: list[Tensor] = [*self.unet.parameters(), *self.text_encoder.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=training.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.average = WeightAverage(self.parameters, training.average_decay)
        self.empty = torch.tensor(tokenizer("", padding="max_length").input_ids)
        self.path = folder / CHECKPOINT
        self.step = self._restore() if self.path.exists() else 0

    def _restore(self) -> int:
        state = torch.load(self.path, weights_only=True)
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, state["parameters"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.values = state["average"]
        return state["step"]

    def save(self) -> None:
        partial = self.path.with_suffix(".partial")
        state = {"step": self.step, "parameters": [p.detach() for p in self.parameters]}
        torch.save(state | {"average": self.average.values, "optimizer": self.optimizer.state_dict()}, partial)
        partial.rename(self.path)

    def advance(self, batch: Batch, alphas: Tensor, training: DenoiserTraining) -> tuple[Tensor, Tensor]:
        """Do one step. Returns this process's loss and stray attention."""
        self.optimizer.param_groups[0]["lr"] = learning_rate(self.step, training)
        loss, stray = total_loss(self.unet, self.text_encoder, self.maps, batch, alphas, training.localisation)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.average.update(self.parameters, self.step)
        self.step += 1
        return loss.detach(), stray.detach()


def _train(
    rank: int,
    workers: int,
    folder: Path,
    pools: list[Path],
    training: DenoiserTraining,
    report: Callable[[str], None],
) -> None:
    run, pool = _Run(folder, training), load_pool(*pools)
    alphas = build_scheduler().alphas_cumprod
    sums, since = torch.zeros(2), time.perf_counter()
    end = training.steps if training.stop_at is None else training.stop_at
    while run.step < end:
        styled = STYLED_SHARES[run.step >= STYLES_FROM * training.steps]
        batch = draw_batch(
            pool, alphas, run.empty, size=training.batch, seed=training.seed, step=run.step, styled=styled
        )
        sums += torch.stack(run.advance(_part(batch, rank, workers), alphas, training))
        if run.step % REPORT_EVERY == 0 and rank == 0:
            speed = REPORT_EVERY * training.batch / (time.perf_counter() - since)
            loss, stray = (sums / REPORT_EVERY).tolist()
            report(f"step {run.step}/{training.steps} loss {loss:.4f} stray {stray:.3f} {speed:.1f} samples/s")
            sums, since = torch.zeros(2), time.perf_counter()
        if run.step % training.checkpoint_every == 0 or run.step == end:
            if rank == 0:
                run.save()
            wait_for_all()


def _part(batch: Batch, rank: int, workers: int) -> Batch:
    """Return this process's share: every `workers`-th sample, so that each sees all noise levels."""
    return replace(batch, **{name: values[rank::workers] for name, values in vars(batch).items()})
