"""What attention blocks share: numerics, softmax and linear attention, neighborhoods, windows, positions, pooling."""
