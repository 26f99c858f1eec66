"""openpilot logs: where they come from, how they are read, and the segments that are cut from them."""
