"""Inspect's side: tasks, scorers, the model provider, and its logs read back into records."""
