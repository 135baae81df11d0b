"""How fast this package is beside the scripts and frameworks that most people would use."""
