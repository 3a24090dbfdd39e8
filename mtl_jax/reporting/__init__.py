"""Tables, plots, annotated videos and the Markdown report of a comparison; progress bars."""
