"""FateZero for ComfyUI: the entry point that ComfyUI looks for."""

if __package__:
    from .nodes import comfy_entrypoint

    WEB_DIRECTORY = "./web"  # the nodes' pages

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
