"""The policy behind a vision network: history of features to a plan, its heads, and how it learns."""
