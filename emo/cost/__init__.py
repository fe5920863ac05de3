"""What a sweep costs: what it is estimated to take, and what it took."""
