"""Training, evaluation, detection and hyperparameter evolution: the loops, and what they write."""
