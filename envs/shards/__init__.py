"""Episodes on disk: one zarr group each, whole or absent."""
