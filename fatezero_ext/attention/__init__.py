"""Attention layers: the one seam `attend(q, k, v, site)`, kernels, and what is recorded of a layer."""
