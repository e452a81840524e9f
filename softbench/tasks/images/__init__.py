"""images: photographs of some classes, from folders, tars, timm's readers, noise or digits, for whole backbones."""

INPUT = "images"
LOADER = "its own"  # they are read as they are needed, not opened as arrays
