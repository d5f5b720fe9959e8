"""What the client decides, without I/O: the time and chance are arguments."""
