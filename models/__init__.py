"""Models: blocks, attention, yamls as graphs, networks, and the zoo of variants."""
