"""RecurrentPPO that runs whole sequences at once, and its training loop."""
