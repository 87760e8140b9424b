"""The local page: images and clips dropped into a browser, detected here, and an HTTP interface for programs."""
