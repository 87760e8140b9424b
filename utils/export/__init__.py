"""Export: a checkpoint written in the formats of other runtimes, each file compared with torch."""
