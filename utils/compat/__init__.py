"""YOLOv5 v6.1's Python names, with its signatures: what its users' programs import, over the parts of this project."""
