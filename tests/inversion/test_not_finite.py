"""Results that are not numbers are errors that name the cause, and nothing of them is kept."""

import copy

import pytest
import torch

from fatezero_ext import Storage, edit, plain, register_attention_control
from fatezero_ext.diffusion import finite
from fatezero_ext.errors import ModelError, SettingsError, VideoError
from fatezero_ext.inversion.invert import Reconstruction
from fatezero_ext.storage import record_store as stores
from fatezero_ext.storage.disk_cache.cache import InversionCache
from fatezero_ext.storage.record_store import MemoryStore

from ..small_runs import EDIT, SOURCE, STEPS, calls_of, clip, edited, inverted, named
from ..storage.disk_cache.saved import rewrite


@pytest.fixture
def unet(golden, model):
    """A UNet of its own, whose weights may be changed."""
    own = golden.unet()
    own.latent_format, own.scheduler, own.name = model.unet.latent_format, model.unet.scheduler, "own"
    return own


@pytest.fixture
def cache(tmp_path):
    return InversionCache(tmp_path)


def break_a_weight(net, value=float("nan")):
    with torch.no_grad():
        next(net.parameters()).view(-1)[3] = value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_named_and_nothing_is_saved(model, unet, cache, value):
    break_a_weight(unet.net, value)
    wanted = r"step 1 of 5 of the inversion with own gives .* weights hold such values themselves .conv_in.weight\)"
    with calls_of(unet.net) as calls, pytest.raises(ModelError, match=wanted):
        inverted(model, Storage("features", "disk", cache=cache), unet=unet)
    assert len(calls) == 1  # on a processor looking costs nothing: the next step is not begun
    assert cache.entries() == [] and list((cache.folder / ".drafts").iterdir()) == []


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Only the last step's result is looked at."""
    monkeypatch.setattr(finite, "runs_ahead", lambda _device: True)


def test_a_gpu_s_run_is_named_as_a_whole_where_its_steps_are_not_looked_at(model, unet, cache, as_on_a_gpu):
    kept = inverted(model, Storage("features", "ram"), unet=unet)
    break_a_weight(unet.net)
    with calls_of(unet.net) as calls, pytest.raises(ModelError, match="^the inversion with own gives .*conv_in.weight"):
        inverted(model, Storage("features", "disk", cache=cache), unet=unet)
    assert len(calls) == STEPS and cache.entries() == []
    with pytest.raises(ModelError, match="^the reconstruction with .*"):
        inverted(model, Storage("features", "ram"), reconstruct=Reconstruction(1e38))
    with pytest.raises(ModelError, match="^the edit with own gives .* weights hold such values"):
        edited(model, kept)


def test_half_precision_is_named_where_it_overflows(model, golden, cache):
    unet = golden.unet()
    unet.latent_format, unet.scheduler = model.unet.latent_format, model.unet.scheduler
    with torch.no_grad():
        unet.net.conv_in.weight *= 1e5
    unet.net.half()
    assert all(weight.isfinite().all() for _name, weight in unet.weights())
    with pytest.raises(ModelError, match="computes in float16, which ends at 65504; load it in bfloat16 or float32"):
        inverted(model, Storage("features", "disk", cache=cache), unet=unet)
    assert cache.entries() == []


def test_levels_beyond_half_precision_are_not_kept_in_it(model, golden):
    """The steps are taken in float32; a float16 model's levels are kept in float16, as it reads them."""
    unet = golden.unet()
    unet.latent_format, unet.scheduler = model.unet.latent_format, model.unet.scheduler
    unet.net.half()
    with pytest.raises(ModelError, match="not finite.*latents given reach"):
        inverted(model, Storage("recompute"), unet=unet, latents=clip() * 1e6, steps=1)


def test_latents_far_out_of_range_are_named(model, cache):
    with pytest.raises(ModelError, match=r"not finite.* latents given reach .*encode the frames with this model's own"):
        inverted(model, Storage("features", "disk", cache=cache), latents=clip() * 3e37)
    assert cache.entries() == []


def test_a_control_that_gives_no_numbers_is_named(model):
    with register_attention_control(model.unet, lambda *given: plain(*given) * float("nan")):
        with pytest.raises(ModelError, match="A registered controller takes part; see that it gives numbers"):
            inverted(model, Storage("features", "ram"))


def test_a_wrong_prediction_is_named_where_nothing_else_is_wrong(model, unet):
    with torch.no_grad():
        unet.net.conv_out.weight *= 1e38
        unet.net.conv_out.weight.clamp_(-3e38, 3e38)
    with pytest.raises(ModelError, match="predict something else than its schedule says; set its prediction"):
        inverted(model, Storage("features", "ram"), unet=unet)


def test_a_reconstruction_that_leaves_all_numbers_is_an_error(model, cache):
    with pytest.raises(ModelError, match=r"of the reconstruction .*Guidance is 1e\+38; 5 to 10 suit most"):
        inverted(model, Storage("features", "disk", cache=cache), reconstruct=Reconstruction(1e38))
    assert cache.entries() == []


def test_an_edit_that_leaves_all_numbers_is_an_error(model, unet):
    controller = inverted(model, Storage("features", "ram"), unet=unet)
    break_a_weight(unet.net)
    with pytest.raises(ModelError, match="step 1 of 5 of the edit with own gives .* weights hold such values"):
        edited(model, controller)


def test_an_edit_with_far_too_much_guidance_says_so(model):
    controller = inverted(model, Storage("features", "ram"))
    with pytest.raises(ModelError, match=r"of the edit .*Guidance is 1e\+38"):
        edit(controller, model.text_encoder, EDIT, named(guidance=1e38))


def test_a_text_encoder_that_gives_no_numbers_is_named_with_the_text(model):
    text = copy.copy(model.text_encoder)
    text.net = copy.deepcopy(text.net)
    controller = inverted(model, Storage("features", "ram"))
    with torch.no_grad():
        text.net.get_input_embeddings().weight.fill_(float("nan"))
    with calls_of(model.unet.net) as calls, pytest.raises(ModelError, match="text encoder gives embeddings that are"):
        edit(controller, text, EDIT)
    assert not calls
    with calls_of(model.unet.net) as calls, pytest.raises(ModelError, match=f"for '{SOURCE[:10]}"):
        from fatezero_ext import Controller, invert

        invert(Controller(model.unet), text, clip(), SOURCE, steps=STEPS)
    assert not calls


def test_a_vae_that_gives_no_numbers_is_named(model):
    vae = copy.copy(model.vae)
    vae.net = copy.deepcopy(vae.net)
    frames, latents = torch.rand(2, 32, 32, 3), clip(frames=2)
    with pytest.raises(VideoError, match="gives frames that are not finite .* its input is not finite either"):
        vae.decode(latents * float("nan"))
    break_a_weight(vae.net)
    with pytest.raises(VideoError, match="gives latents .* weights hold such values themselves"):
        vae.encode(frames)
    with torch.no_grad():
        vae.net.decoder.conv_out.bias.fill_(float("inf"))  # would be saved white
    with pytest.raises(VideoError, match="gives frames .* weights hold such values themselves"):
        vae.decode(latents)


def test_a_vae_in_half_precision_is_named_where_it_overflows(model):
    vae = copy.copy(model.vae)
    vae.net = copy.deepcopy(vae.net)
    with torch.no_grad():
        vae.net.decoder.conv_in.weight *= 1e4
    vae.net.half()
    with pytest.raises(VideoError, match="computes in torch.float16. Load the VAE in float32.* frames go black"):
        vae.decode(clip(frames=1) * 100)


def test_saved_levels_that_are_no_numbers_are_inverted_anew(model, cache, caplog):
    storage = Storage("features", "disk", cache=cache)
    controller = inverted(model, storage)
    entry, wanted = controller.trace.store.entry, controller.trace.latents
    rewrite(entry, "levels", {"latents": wanted * float("nan"), "noise": controller.trace.noise})
    key = entry.key
    entry.release()
    (checked,) = cache.verify()
    assert checked.key == key and checked.damaged == {"levels": "it holds values that are not finite"}
    again = inverted(model, storage)
    assert again.trace.latents.equal(wanted) and "it holds values that are not finite" in caplog.text
    assert [checked.sound for checked in cache.verify()] == [True]


@pytest.fixture
def unet_of_large_queries(unet):
    """A UNet in float32 with queries beyond 65504, which is sound."""
    with torch.no_grad():
        unet.layers[1].module.to_q.weight *= 1e6
    return unet


@pytest.mark.parametrize("place", ["ram", "gpu", "disk"])
def test_attention_beyond_the_precision_it_is_to_be_kept_in_is_refused(model, unet_of_large_queries, cache, place):
    def inversion(precision):
        return inverted(model, Storage("features", place, precision, cache=cache), unet=unet_of_large_queries)

    wanted = r"precision 'float16', which ends at 65504, and that of down.0.0.cross reaches \S+e\+\d+; .*'bfloat16' or"
    with pytest.raises(SettingsError, match=wanted):
        inversion("float16")
    assert cache.entries() == [] and not list(cache.folder.glob(".drafts/*"))
    assert edited(model, inversion("bfloat16"), "replace").isfinite().all()


def test_attention_on_a_device_is_looked_at_once_where_it_is_sealed(model, unet_of_large_queries, monkeypatch):
    """As of a store on a GPU, where looking at each page would wait for it."""
    page = inverted(model, Storage("features", "ram"), unet=unet_of_large_queries, steps=1).trace.store.read(0)
    monkeypatch.setattr(stores, "CPU", torch.device("meta"))
    store = MemoryStore(None, "float16")
    store.write(0, page)
    with pytest.raises(SettingsError, match="ends at 65504, and some of it is larger; .*Use precision 'bfloat16'"):
        store.seal()
    assert not len(store)
    sound = MemoryStore(None, "bfloat16")
    sound.write(0, page)
    sound.seal()


def test_attention_that_is_no_number_is_left_to_the_check_of_the_result(model, unet):
    break_a_weight(unet.net)
    with pytest.raises(ModelError, match="weights hold such values themselves"):
        inverted(model, Storage("features", "ram", "float16"), unet=unet)
