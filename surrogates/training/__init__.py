"""What plants are trained on."""
