"""A learned controller for TinyPhysics: its network, its training, and the file that leaves."""
