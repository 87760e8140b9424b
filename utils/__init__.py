"""Everything around the network: configuration, data, training, evaluation, statistics and plots."""
