"""pi0: action chunks drawn by a flow from noise to actions."""
