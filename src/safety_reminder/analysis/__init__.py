"""Records and model → what they show: curves of delayed safety awareness."""
