"""Runs workflow files without ComfyUI, through the same node classes.

problems <- graph <- registry <- reading (ui_format, subgraphs, api_format, workflow) <- settings, validate
                              <- lists <- execute <- report, files <- command
`core/` has stand-ins for the ComfyUI core nodes that the example workflows use.
"""
