"""VisionNet: both cameras' pictures to the heads of openpilot's vision network."""
