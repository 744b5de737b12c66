"""The curve of a training run's losses as a picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from .labelled_sheet import NOTE_COLOUR, label_font

SIZE, MARGIN = (768, 384), 48
SINGLE, AVERAGE = (178, 190, 207), (31, 90, 168)
SMOOTHING = 0.1  # share of the steps that the average runs over: single losses jump with their timestep


def loss_curve(losses: Sequence[float]) -> Image.Image:
    """Draw every loss, and over them their running mean.

    losses: one a step, at least one
    """
    picture = Image.new("RGB", SIZE, "white")
    draw, font = ImageDraw.Draw(picture), label_font(14)
    low, high = min(losses), max(losses)
    draw.line(_points(losses, low, high), fill=SINGLE, width=1)
    draw.line(_points(_averaged(losses), low, high), fill=AVERAGE, width=3)
    left, bottom = MARGIN, SIZE[1] - MARGIN
    draw.line([(left, MARGIN // 2), (left, bottom), (SIZE[0] - MARGIN // 2, bottom)], fill=NOTE_COLOUR, width=1)
    draw.text((4, MARGIN // 2), f"{high:.3g}", fill=NOTE_COLOUR, font=font)
    draw.text((4, bottom - 16), f"{low:.3g}", fill=NOTE_COLOUR, font=font)
    draw.text((left, bottom + 8), f"loss over {len(losses)} steps, and its running mean", fill=NOTE_COLOUR, font=font)
    return picture


def _averaged(losses: Sequence[float]) -> list[float]:
    """Return for each loss the mean of those around it."""
    reach = max(1, round(len(losses) * SMOOTHING / 2))
    around = [losses[max(0, at - reach) : at + reach + 1] for at in range(len(losses))]
    return [sum(values) / len(values) for values in around]


def _points(losses: Sequence[float], low: float, high: float) -> list[tuple[float, float]]:
    """Return where the losses lie in the picture; a single one is drawn as a level line."""
    values = list(losses) if len(losses) > 1 else list(losses) * 2
    width, height = SIZE[0] - MARGIN * 3 // 2, SIZE[1] - MARGIN * 3 // 2
    span = high - low or 1.0
    return [
        (MARGIN + width * at / (len(values) - 1), MARGIN // 2 + height * (high - value) / span)
        for at, value in enumerate(values)
    ]
