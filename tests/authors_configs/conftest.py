"""Small configs in the authors' format, and their translations."""

import copy

import pytest
import yaml

from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.errors import FateZeroError

SOURCE = "a silver jeep on the road,"
PIPELINES = "video_diffusion.pipelines"
BASE = {
    "pretrained_model_path": "./ckpt/tuned_jeep",
    "dataset_config": {
        "path": "./data/jeep",
        "prompt": SOURCE,
        "n_sample_frame": 3,
        "sampling_rate": 2,
        "offset": {"left": 1, "right": 2, "top": 3, "bottom": 4},
    },
    "editing_config": {
        "use_invertion_latents": True,
        "use_inversion_attention": True,
        "guidance_scale": 7.5,
        "editing_prompts": [SOURCE, "a red car on the road,"],
        "p2p_config": {
            0: {"cross_replace_steps": {"default_": 0.8}, "self_replace_steps": 0.6},
            1: {"cross_replace_steps": {"default_": 0.5}, "self_replace_steps": 0.4},
        },
        "num_inference_steps": 4,
        "prompt2prompt_edit": True,
    },
    "model_config": {"SparseCausalAttention_index": ["mid"], "least_sc_channel": 640},
    "test_pipeline_config": {"target": f"{PIPELINES}.p2p_ddim_spatial_temporal.P2pDDIMSpatioTemporalPipeline"},
}


def changed(changes, document=BASE):
    """The document with values replaced by dotted key; None as a value removes the key."""
    document = copy.deepcopy(document)
    for path, value in changes.items():
        *above, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
        section = document
        for part in above:
            section = section[part]
        if value is ...:
            del section[last]
        else:
            section[last] = value
    return document


class Plain(yaml.SafeDumper):
    """Writes values out where they repeat, and keys in their order."""

    def ignore_aliases(self, data):
        return True


def as_yaml(document):
    return yaml.dump(document, Dumper=Plain, sort_keys=False)


@pytest.fixture(scope="session")
def types():
    return load_pack("nodes.headless.schemas.registry").pack_node_types()


@pytest.fixture(scope="session")
def configs():
    """The package's modules by name."""
    names = ("yaml_reader", "config", "translate", "errors", "command", "prompt_words")
    return {name: load_pack(f"nodes.authors_configs.{name}") for name in names} | {
        "ui_writer": load_pack("nodes.headless.formats.ui_writer")
    }


@pytest.fixture
def translated(configs, types):
    """Translate the base config with changes, through its YAML text."""

    def translate(changes=None, **options):
        text = as_yaml(changed(changes or {}))
        config = configs["config"].checked(configs["yaml_reader"].parse_config(text))
        settings = configs["translate"].Options(**{"name": "my config", **options})
        return configs["translate"].translate(config, settings, types)

    return translate


@pytest.fixture
def refused(configs, translated):
    """Translate what must be refused; returns the message."""

    def translate(changes):
        with pytest.raises(FateZeroError) as caught:
            translated(changes)
        return str(caught.value)

    return translate


@pytest.fixture
def edit(translated):
    """The widgets of one edit of the base config with changes to its p2p_config, and the warnings about it."""

    def widgets(changes=None, index=1, prompt=None, **more):
        every = {f"editing_config.p2p_config.{index}.{key}": value for key, value in (changes or {}).items()}
        if prompt is not None:
            every[f"editing_config.editing_prompts.{index}"] = prompt
        result = translated({**every, **{key.replace("__", "."): value for key, value in more.items()}})
        node = next(node for node in result.graph.nodes.values() if node.title == f"Edit {index}")
        return node.constants, [w for w in result.warnings if f"p2p_config.{index}" in w]

    return widgets
