"""Road maps as plain arrays: compiled once from OpenDRIVE, or generated."""
