"""Text to train, calibrate and judge with: documents, disjoint splits, packed blocks of tokens."""
