"""The cart-pole of MuJoCo's ``InvertedPendulum-v5`` with wide limits, as batched equations."""
