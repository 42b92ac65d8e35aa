"""Reports: one HTML page, Markdown, CSV and figures from the files that runs, probes and attacks left."""
