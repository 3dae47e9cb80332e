"""What of a training lies on the disk, so that nothing is lost: checkpoints, and weights as files."""
