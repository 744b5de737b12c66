"""Five steps of the authors' own training program, given the same weights, noise and timesteps: the same numbers."""

from dataclasses import dataclass

import pytest
import torch

from fatezero_ext.models.unet.inflate import TemporalLayers
from fatezero_ext.tuning.draws import Draw
from fatezero_ext.tuning.settings import TuningSettings
from fatezero_ext.tuning.training import Lesson, Training

from ..conftest import relative

STEPS, RANK = 5, 4
LOSS, WEIGHTS = 1e-5, 1e-4  # difference of a loss, relative difference of a weight
SETTINGS = TuningSettings(steps=STEPS, learning_rate=1e-3, temporal=TemporalLayers(rank=RANK))


@dataclass
class GivenDraws:
    """The timesteps and noise that their program was given."""

    given: dict
    clips: int = 0
    runs: int = 0

    def clip(self, shape):
        at, self.clips = self.clips, self.clips + 1
        return Draw(self.given["timesteps"][at : at + 1], self.given["noise"][at])

    def pictures(self, available, shape):
        at, self.runs = self.runs, self.runs + 1
        return Draw(self.given["class_timesteps"][at], self.given["class_noise"][at], int(self.given["firsts"][at]))


def drawn_weights(net):
    """The weights over time that both programs began with."""
    generator = torch.Generator().manual_seed(3)
    shapes = {name: x.shape for name, x in net.named_parameters() if "_temporal" in name}
    return {name: torch.randn(shapes[name], generator=generator) * 0.1 for name in sorted(shapes)}


def began(golden, *, pictures=False, **changes):
    """Their run, about to take its first step."""
    given = golden.tensors("tuning/steps")
    unet = golden.unet()
    settings = TuningSettings(**{**vars(SETTINGS), **changes})
    lessons = {"clip": Lesson(given["latents"], given["text"])}
    if pictures:
        lessons["pictures"] = Lesson(given["pictures"], given["class_text"])
    training = Training(unet, settings, GivenDraws(given), **lessons)
    weights = drawn_weights(training._twin.net)
    assert len(weights) == len([name for name in training._twin.net.state_dict() if "_temporal" in name])
    training._twin.net.load_state_dict(weights, strict=False)
    return given, training


@pytest.mark.parametrize("checkpointing", [False, True])
def test_steps_on_a_clip_are_theirs(golden, checkpointing):
    given, training = began(golden, gradient_checkpointing=checkpointing)
    losses = torch.tensor([training.step() for _ in range(STEPS)], dtype=torch.float64)
    assert (losses - given["clip.losses"]).abs().max() < LOSS
    theirs = {name.removeprefix("clip.weight."): x for name, x in given.items() if name.startswith("clip.weight.")}
    assert set(training.trained) == set(theirs)
    assert max(relative(training.optimizer.masters[name], x) for name, x in theirs.items()) < WEIGHTS


def test_steps_on_class_pictures_and_a_clip_are_theirs(golden):
    given, training = began(golden, pictures=True)
    losses = torch.tensor([training.step() for _ in range(STEPS)], dtype=torch.float64)
    assert (losses - given["class.losses"]).abs().max() < LOSS
    for name in training.trained:
        norm, turned = given[f"class.stats.{name}"]
        weight = training.optimizer.masters[name].detach().double().flatten()
        waves = torch.sin(0.37 * torch.arange(len(weight), dtype=torch.float64) + 0.1)
        assert abs(weight.norm() - norm) < WEIGHTS * norm
        assert abs((weight * waves).sum() - turned) < WEIGHTS * norm * waves.norm()
