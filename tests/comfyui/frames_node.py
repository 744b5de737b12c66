"""Custom nodes for the tests' own ComfyUI: one saves the frames themselves, before any encoder."""

from pathlib import Path


class SaveFrames:
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "save"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",)}}

    def save(self, images):
        import folder_paths
        from safetensors.torch import save_file

        folder = Path(folder_paths.get_output_directory())
        name = f"frames_{len(list(folder.glob('frames_*')))}.safetensors"
        save_file({"frames": images.contiguous()}, folder / name)
        return {"ui": {"frames": [name]}}


class KeepLatents:
    """An end for graphs that stop at an edit."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "keep"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"samples": ("LATENT",)}, "optional": {"mask": ("MASK",)}}

    def keep(self, samples, mask=None):
        return {"ui": {}}


NODE_CLASS_MAPPINGS = {"TestSaveFrames": SaveFrames, "TestKeepLatents": KeepLatents}
