"""The headless runner: workflow files without ComfyUI, through the same node classes."""
