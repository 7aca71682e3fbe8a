"""The figures of the pages, drawn with matplotlib."""
