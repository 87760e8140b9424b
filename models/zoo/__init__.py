"""The attention variants of models/zoo.yaml: their yamls, their figures, and commands for any v6.1-format yaml."""
