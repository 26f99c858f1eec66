"""PolicyNet: a driving policy with openpilot's inputs and outputs, and how it is trained."""
