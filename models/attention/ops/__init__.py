"""What several attention blocks share: arithmetic in float32, softmax and linear attention, windows, positions, pooling."""
