"""What a model is asked so that its own answers become training rows: requests, and the openings they are put into."""
