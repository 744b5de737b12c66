"""Turns the YAML configs of the authors' program into workflows of this pack.

problems <- reading <- config <- leftovers <- wording <- edits <- translate <- command
                                                              layout <-/
reading: text to plain values; config: their types; leftovers: keys that have no effect; wording, edits: one edit's
settings; translate: the whole graph; layout: the graph as a file for ComfyUI's page.
"""
