"""Route segments: comma's CSV format, comma's routes, and synthetic ones."""
