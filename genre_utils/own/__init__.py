"""One's own music: train a system on all clips, keep it as a folder, name genres of new files."""
