"""Wrappers for single and native vector environments."""
