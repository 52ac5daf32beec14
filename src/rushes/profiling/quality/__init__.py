"""What clips are worth, measured without downloads, each figure beside its noise floor."""
