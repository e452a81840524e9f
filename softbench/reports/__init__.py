"""Reports: a frame of records in, text or a figure out. Nothing here imports torch or measures anything."""
