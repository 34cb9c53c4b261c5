"""The page: templates, scripts and styles, and the texts and data that go into them."""
