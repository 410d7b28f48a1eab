"""Attacks that test the guard: each is a configuration, a pure step, a result, and one function."""
