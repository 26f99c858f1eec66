"""Plants: models of the next lateral acceleration, and what runs them."""
