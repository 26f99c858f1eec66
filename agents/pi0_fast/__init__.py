"""pi0-FAST: action chunks as short sequences of learned tokens."""
