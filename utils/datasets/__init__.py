"""Datasets: labels and their cache, augmentation, batches, and the sources of detection."""
