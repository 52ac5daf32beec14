"""Two video files beside each other: figures, a side-by-side video and a heat map."""
