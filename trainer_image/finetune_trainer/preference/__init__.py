"""What the methods that learn from preferences share, beside TRL's trainers: see `recipes`."""
