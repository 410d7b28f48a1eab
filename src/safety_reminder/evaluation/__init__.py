"""Running examples, judging what came out, and counting."""
