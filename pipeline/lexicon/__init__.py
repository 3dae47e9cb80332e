"""Visual words: scans embedded, places that recur found, and the table of them."""
