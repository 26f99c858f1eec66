"""openpilot's driving-model contracts: tables, packing, runner, export, verification."""
