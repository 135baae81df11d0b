"""From sound to arrays: waveform, features, VGG-16's weights and maps."""
