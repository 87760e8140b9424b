"""The table of attention variants (models/zoo.yaml): their yamls, their figures, and the commands on anyone's yaml."""
