"""Probes: hidden states read where checks come, a probe fitted to them, its threshold, and how well it tells."""
