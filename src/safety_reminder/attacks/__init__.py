"""Attacks on a model and its guard: what a defence is worth is what it survives."""
