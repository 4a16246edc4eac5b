"""Faster ways to the same numbers; each is put on one model, and tells where it does not fit."""
