"""Figures: boxes on images, batches, curves, label statistics, feature maps, and those of a comparison."""
