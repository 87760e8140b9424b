"""Heat maps: where in an image a detection comes from, whether such a map can be trusted, what attention applied."""
