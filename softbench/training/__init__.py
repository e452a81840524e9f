"""Training and evaluating the backbones on images: what binds timm and torch.distributed into one restartable job."""
