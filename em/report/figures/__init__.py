"""The report's figures. The numbers of each figure are in a CSV file beside the image."""
