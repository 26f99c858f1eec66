"""Route segments, logs, and the learned plant models with their runtimes."""
