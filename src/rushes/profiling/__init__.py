"""Where the time of a clip goes, how far that is from what the device can do, and what to do about it."""
