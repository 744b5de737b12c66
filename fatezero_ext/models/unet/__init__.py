"""The pseudo-3D UNet: a diffusers UNet2DConditionModel inflated in place."""
