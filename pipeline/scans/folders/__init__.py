"""What a folder says of the files in it: their kind, subject, visit, channel, labels."""
