"""Studies: variants trained with several seeds, or trained checkpoints, compared with intervals, tests and costs."""
