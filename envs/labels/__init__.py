"""What a network should say about a frame, from the map and the true state, in openpilot's units."""
