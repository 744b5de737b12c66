"""A custom node for the tests' own ComfyUI: saves the frames themselves, before any encoder."""

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


NODE_CLASS_MAPPINGS = {"TestSaveFrames": SaveFrames}
