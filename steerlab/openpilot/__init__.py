"""openpilot's model interface: contracts as data, inputs, outputs, plans, commands, and what runs a model."""
