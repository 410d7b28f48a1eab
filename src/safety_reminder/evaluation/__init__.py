"""Running examples, judging the answers, and counting."""
