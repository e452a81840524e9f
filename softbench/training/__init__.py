"""Training whatever a task gives batches of: what binds timm and torch.distributed into one restartable job."""
