"""FateZero for ComfyUI: the entry point that ComfyUI looks for."""

if __package__:
    from .nodes import comfy_entrypoint

    __all__ = ["comfy_entrypoint"]
