"""The gate: two versions of this package on one machine, exact quantities first, then times in interleaved rounds."""
