"""What a Runner calls: loops, checkpoints, resuming, sampling, optimizer wrappers, compiling, strict loading."""
