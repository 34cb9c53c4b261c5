"""The HTML page of a report: templates, scripts and styles, and their texts and data."""
