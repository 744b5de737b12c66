"""What is checked of a reference run: its inversion, its maps, its masks and its edits, at every step.

The files of tests are one per set of inversions, so that each inversion is computed once and two processes share them.
Tolerances are those at which the authors' program agrees with itself on another number of threads, with room: inverted
latents within 1e-4, masks equal on 99.9 % of pixels, edited latents within a relative L2 of 3e-4.
"""

from functools import cache

import pytest
import torch

from fatezero_ext.editing.loop import edit_latents
from fatezero_ext.editing.masks import blend_layers, word_heat
from fatezero_ext.editing.plan import compile_edit, mask_layers
from fatezero_ext.inversion.source_reader import SourceReader
from fatezero_ext.prompts.prompt import read_prompt

from .conftest import relative
from .golden_runs import INVERSIONS, RUNS, thinned

FAR = 3e-4
"""Distance at which a statistic is another one: the right maps come within 4e-5 of the reference, which was computed
with other kernels, and the nearest of a wrong step is 6e-3 away."""
PART = 1 << 16


# ---- inversions


def check_inverted_latents(golden, inverted, name):
    wanted = golden.tensors(f"{name}/latents")["latents_all.thinned"]
    _, trace = inverted(name)
    assert (thinned(trace.latents) - wanted).abs().max() < 1e-4


@pytest.fixture(scope="module")
def statistics(inverted):
    """name -> {the reference's name of a map: (its statistics, how many numbers it has)}; sums over the steps too."""

    @cache
    def of(name):
        unet, trace = inverted(name)
        sites, steps, wave = unet.source_sites(trace.text, trace.frames, 64, 64), len(trace.schedule), Wave()
        found, sums = {}, {}
        for inversion_step in range(steps):
            seen = {}
            for address, record in trace.store.read(steps - 1 - inversion_step).items():
                place = f"{address.stage}_{address.kind}"
                number = seen[place] = seen.get(place, -1) + 1
                probs = record.probs(torch.zeros(()), sites[address])
                found[f"step{inversion_step}.{place}.{number}"] = map_statistics(probs, wave), probs.numel()
                summed = f"cumulative.{place}.{number}"
                sums[summed] = sums[summed].add_(probs) if summed in sums else probs.clone()
        return found | {key: (map_statistics(total, wave), total.numel()) for key, total in sums.items()}

    return of


def check_every_map(golden, statistics, name):
    """Mean, spread, sum, maximum and a position-weighted sum of each layer's map at each step, from kept features.

    At the last step also of its sum over the steps so far.
    """
    wanted, found = golden.tensors(f"{name}/map_stats"), statistics(name)
    assert len([key for key in found if key.startswith("step")]) == 22 * INVERSIONS[name]
    assert not [key for key, (got, numbers) in found.items() if statistics_distance(got, wanted[key], numbers) > FAR]


def check_maps_of_neighbouring_steps(golden, statistics, name):
    """The statistics can tell maps apart: each step's map is refused where the next step's is expected."""
    wanted, found = golden.tensors(f"{name}/map_stats"), statistics(name)
    passing = []
    for key, (got, numbers) in found.items():
        step, _, layer = key.partition(".")
        neighbour = f"step{int(step.removeprefix('step')) + 1}.{layer}" if step != "cumulative" else None
        if neighbour in found and statistics_distance(got, wanted[neighbour], numbers) < FAR:
            passing.append(neighbour)
    assert not passing


class Wave:
    """Weights by position: sin(0.37 n + 0.1) of the first numbers, computed once for the longest map."""

    def __init__(self):
        self.values = torch.zeros(0, dtype=torch.float64)

    def first(self, count):
        if len(self.values) < count:
            self.values = torch.sin(0.37 * torch.arange(count, dtype=torch.float64) + 0.1)
        return self.values[:count]


def map_statistics(probs, wave):
    """Mean, spread, sum, maximum and the wave's sum, in float64 and by parts that stay in the processor's cache."""
    count, total, squares, peak, waved = probs.numel(), 0.0, 0.0, 0.0, 0.0
    for part, weights in zip(probs.flatten().split(PART), wave.first(count).split(PART), strict=True):
        x = part.double()
        total, squares, waved = total + x.sum(), squares + x @ x, waved + x @ weights
        peak = max(peak, *(end.abs() for end in part.aminmax()))
    mean = total / count
    # No map here is nearly constant (its spread is no small part of its mean), so the difference loses few digits.
    spread = ((squares - mean * total) / (count - 1)).sqrt()
    return torch.stack([mean, spread, total, peak.double(), waved])


def statistics_distance(found, wanted, numbers):
    """The largest of five differences, each in units of its own size. numbers: how many a map has.

    A map's rows sum to 1, so its mean and sum say nothing; the wave's sum over numbers of that spread is about
    std * sqrt(n), whatever their mean.
    """
    size = wanted.abs()
    size[-1] = wanted[1] * numbers**0.5
    return ((found - wanted).abs() / size).max().item()


# ---- masks


def check_attention_masks(golden, model, inverted, name):
    """Masks of the self-attention at every fused step and size."""
    tensors, described = golden.tensors(f"{name}/edit"), golden.json(f"{name}/settings")
    unet, trace = inverted(described["inversion"])
    assert_masks_agree(
        golden_masks(tensors), lambda step, side: source_mask(unet, trace, model, described, RUNS[name], step, side)
    )


def check_latent_masks(golden, model, inverted, name):
    tensors, described = golden.tensors(f"{name}/edit"), golden.json(f"{name}/settings")
    unet, trace = inverted(described["inversion"])
    wanted = {(step, 64): mask for step, mask in enumerate(tensors["latent_mask_source_only"])}
    assert_masks_agree(wanted, lambda step, side: source_mask(unet, trace, model, described, RUNS[name], step, side))


def golden_masks(tensors):
    """(step, side) -> [frames, side, side]; the reference repeats a step's mask for every layer of a size."""
    found = {}
    for side in (32, 16, 8):
        masks = tensors[f"attention_mask.{side}"]
        per_step = len(masks) // 3
        for step in range(3):
            of_step = masks[step * per_step : (step + 1) * per_step]
            assert all(mask.equal(of_step[0]) for mask in of_step)
            found[step, side] = of_step[0]
    return found


def source_mask(unet, trace, model, described, settings, step, side):
    plan = compile_edit(
        settings, trace.prompt, read_prompt(model.text_encoder, described["edit_prompt"]), len(trace.schedule)
    )
    sites, page = unet.source_sites(trace.text, trace.frames, 64, 64), trace.store.read(step)
    maps = [(page[a].probs(torch.zeros(()), sites[a]), sites[a]) for a in blend_layers(sites, trace.capture.most_cells)]
    return plan.source_mask.at(lambda weights: word_heat(maps, weights), (side, side))


def assert_masks_agree(wanted, mask_of):
    equal = torch.cat([(mask_of(*key).int() == mask).flatten() for key, mask in wanted.items()])
    assert equal.float().mean() > 0.999


# ---- edits


def check_computed_again(inverted, name):
    """Where the source runs again, an edit reads at every step the bits that it would have read from kept features."""
    unet, kept = inverted(name)
    _, again = inverted(name, "recompute")
    addresses = [at for at, site in unet.sites(kept.frames, *kept.size).items() if kept.capture.covers(site)]
    with SourceReader(unet, again, [addresses] * len(kept.schedule)) as pages, torch.no_grad():
        for step in range(len(kept.schedule)):
            page, wanted = pages.read(step), kept.store.read(step)
            assert page.keys() == wanted.keys() and len(wanted) == len(addresses)
            assert all(source.record.form == wanted[at].form for at, source in page.items())
            assert all(source.record.kept.values.equal(wanted[at].kept.values) for at, source in page.items())


def check_edited_latents(golden, model, inverted, name, policy="features", frames_at_once=0):
    """Every step of a reference run; the policies take turns, and all of them run with FATEZERO_THOROUGH."""
    described, tensors = golden.json(f"{name}/settings"), golden.tensors(f"{name}/edit")
    unet, trace = inverted(described["inversion"], policy, frames_at_once)
    edit = read_prompt(model.text_encoder, described["edit_prompt"])
    layers = mask_layers(RUNS[name], unet, trace)
    plan = compile_edit(RUNS[name], trace.prompt, edit, len(trace.schedule), layers)
    levels, text = [], torch.cat([tensors["text_uncond"], tensors["text_edit"]])
    parts = unet.parts(trace.frames, frames_at_once)
    edit_latents(unet, trace, plan, text, on_step=lambda step: levels.append(step.latents), parts=parts)
    wanted = tensors["latents_after_step.thinned"]
    assert len(levels) == len(plan.steps) == len(wanted)
    distances = [relative(got, reference) for got, reference in zip(thinned(torch.stack(levels)), wanted, strict=True)]
    assert max(distances) < 3e-4, distances
