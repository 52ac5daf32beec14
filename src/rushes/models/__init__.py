"""One architecture a file, plain `nn.Module`, no state, runs on a CPU in eager mode."""
