"""One verb a file: read files, call the rooms above, write files. Imported only when called."""
