"""From the store to the device: which crops, read ahead, in memory that is used again."""
