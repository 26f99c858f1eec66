"""Controllers without learning."""
