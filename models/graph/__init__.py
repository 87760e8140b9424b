"""A model yaml without weights: its rows, its specification, places in it, shapes, FLOPs and mistakes."""
