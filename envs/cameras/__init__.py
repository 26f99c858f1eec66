"""What the windshield cameras of a car see: geometry, scenes built from maps, and a renderer."""
