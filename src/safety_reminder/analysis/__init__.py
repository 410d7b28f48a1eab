"""Records and model → curves of delayed safety awareness."""
