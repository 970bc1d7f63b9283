"""Units: poses are in mm outside of networks and losses, and in metres inside, where numbers should be about 1."""

MM_PER_METRE = 1000.0
