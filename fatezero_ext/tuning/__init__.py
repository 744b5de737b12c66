"""Tuning: a UNet learns one clip, so that edits may change shapes and keep its motion."""
