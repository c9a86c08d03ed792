"""Records rendered for people: terminal, page, JSON. Never imports torch."""
