"""Benchmarks and prompt files: one loader a file, each ``load(root, **options) -> list[Example]``."""
